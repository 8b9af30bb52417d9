"""The stage that every test here plays on."""

from tests.stage import file_stage, stage

__all__ = ["file_stage", "stage"]
