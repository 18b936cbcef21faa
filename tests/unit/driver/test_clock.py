"""Times in the future are brought back in their order; others stay as they are."""

import os
import time

from driver.clock import bring_back, made_by_the_graph

YEAR = 366 * 86400 * 10**9


def set_time(path, nanoseconds):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.utime(path, ns=(nanoseconds, nanoseconds))
    return path


def test_times_in_the_future_are_set_to_now_in_their_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    now = time.time_ns()
    old = set_time(tmp_path / "results/m/old.json", now - YEAR)
    near = set_time(tmp_path / "results/m/near.json", now + 10**10)
    files = [set_time(tmp_path / f"results/m/{name}.json", now + YEAR + n) for n, name in enumerate("cabd")]
    marker = set_time(tmp_path / ".envs/serve.cpu.json", now + 2 * YEAR)
    (tmp_path / "results/m/link").symlink_to(set_time(tmp_path / "elsewhere", now + YEAR))
    os.utime(tmp_path / "results/m", ns=(now + YEAR, now + YEAR))
    said = []
    monkeypatch.setattr("driver.clock.logger", type("Logger", (), {"warning": said.append}))
    assert bring_back(made_by_the_graph()) == 6
    times = [path.stat().st_mtime_ns for path in [*files, marker]]
    assert times == sorted(times) and len(set(times)) == 5 and now - 10**9 < times[0] and times[-1] <= time.time_ns()
    assert old.stat().st_mtime_ns == now - YEAR and near.stat().st_mtime_ns == now + 10**10
    assert (tmp_path / "elsewhere").stat().st_mtime_ns == now + YEAR
    assert len(said) == 1 and "6 files have times in the future" in said[0]
    assert bring_back(made_by_the_graph()) == 0 and len(said) == 1
