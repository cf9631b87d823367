"""A session runs the stages of a study in order, and nothing of theirs is swallowed."""

from __future__ import annotations

import pytest

from tlx.lab.settings import Settings
from tlx.studies import Session, Study, run_study


class Steps(Study):
    """Two stages; the second is planned from the report of the first."""

    name, short, help, specs, shown = "steps", "", "", (), ()

    def stages(self, session):
        first = yield "a"
        yield first + "b"


class Recording(Session):
    """Answers a stage with its name in capitals; raises what it is told to."""

    def __init__(self, error=None):
        super().__init__(Settings())
        self.ran, self.error = [], error

    def run(self, stage):
        self.ran.append(stage)
        if self.error is not None:
            raise self.error
        return stage.upper()


def test_a_stage_gets_the_report_of_the_one_before():
    session = Recording()
    assert run_study(Steps(), session) == "AB"
    assert session.ran == ["a", "Ab"]


@pytest.mark.parametrize("error", [StopIteration(), ValueError("x"), KeyboardInterrupt()])
def test_what_a_stage_raises_is_never_taken_for_its_end(error):
    with pytest.raises(type(error)):
        run_study(Steps(), Recording(error))


def test_a_note_is_said_once():
    said = []
    session = Recording()
    session.say = lambda *lines: said.extend(lines)
    session.note("x", "y")
    session.note("y", "z")
    assert said == ["note: x", "note: y", "note: z"]
