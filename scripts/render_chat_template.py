"""Render a model's chat template as the engine will, with transformers' own tokenizer, within a time and a memory.

Runs in a harness's environment, before any server. A template is a program: one that does not end, fills the memory or
refuses the suite's system prompt would show that only in the server's answers. Prints a line of JSON: {"tokens": [...]}
of a short question after each system prompt, {"problem": ...} where the template is at fault, or {"unknown": ...} where
the tokenizer cannot be loaded here, so that the server must show it.
"""

from __future__ import annotations

import argparse
import json
import resource
import signal
import sys
from typing import Any

QUESTION = "What is 1+1?"
CPU_SECONDS = 10  # a template of a thousand lines takes milliseconds
BYTES = 2 << 30  # besides what is loaded


def stop(*_: Any) -> None:
    raise TimeoutError(f"it does not end within {CPU_SECONDS} CPU seconds")


def set_limits() -> None:
    """Limit what the rest of the process may take; code that never returns to Python is killed at three times it."""
    with open("/proc/self/status") as status:
        held = next(int(line.split()[1]) << 10 for line in status if line.startswith("VmData:"))
    resource.setrlimit(resource.RLIMIT_DATA, (held + BYTES, resource.RLIM_INFINITY))
    usage = resource.getrusage(resource.RUSAGE_SELF)
    most = int(usage.ru_utime + usage.ru_stime) + 3 * CPU_SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (most, most))
    signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)


def count_tokens(tokenizer: Any, system: str | None) -> int:
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": QUESTION})
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return len(tokenizer(text, add_special_tokens=False).input_ids)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="of the model: its tokenizer and template")
    parser.add_argument("systems", type=json.loads, help="JSON: a list of system prompts; null is none")
    arguments = parser.parse_args()
    try:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(arguments.folder, local_files_only=True)
    except Exception as error:
        answer: dict[str, Any] = {"unknown": f"{type(error).__name__}: {error}"[:300]}
    else:
        set_limits()
        try:
            answer = {"tokens": [count_tokens(tokenizer, system) for system in arguments.systems]}
        except MemoryError:
            answer = {"problem": f"it takes more than {BYTES >> 30} GiB of memory"}
        except Exception as error:
            what = str(error) if isinstance(error, TimeoutError) else f"{type(error).__name__}: {error}"
            answer = {"problem": what[:300]}
        signal.setitimer(signal.ITIMER_PROF, 0)
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main())
