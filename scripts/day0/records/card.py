"""What a configuration says about the model cards of bundles."""

from __future__ import annotations

from pydantic import Field, model_validator

from day0.base.mistakes import LocalPath
from day0.records.record import Record


class CardSettings(Record):
    """The model card of a bundle; what is not given follows from the source and the evidence."""

    template: LocalPath | None = Field(
        None, description="jinja2 template of the text below the front matter, in place of the project's own"
    )
    base_model: str | None = Field(
        None,
        pattern=r"^[\w.-]+/[\w.-]+$",
        description="repository of the hub that a local source came from, organisation/name",
    )
    tags: list[str] = Field([], description="tags besides those of format, tool and engine")
    quantized_by: str | None = Field(None, description="who quantized it, as the hub shows it")
    license: str | None = Field(None, description="licence identifier of the hub, in place of the source's; other: any")
    license_name: str | None = Field(None, description="of the licence other")
    license_link: str | None = Field(None, description="of the licence other: an address, or a file of the bundle")
    license_text: str | None = Field(None, description="the sentence on the licence, in place of the card's own")

    @model_validator(mode="after")
    def _other_has_a_name(self) -> CardSettings:
        if self.license == "other" and not self.license_name:
            raise ValueError("license: 'other' needs a license_name, and a license_link where there is a text")
        if self.license is None and (self.license_name or self.license_link):
            raise ValueError("license_name and license_link need a license; give license: other")
        return self
