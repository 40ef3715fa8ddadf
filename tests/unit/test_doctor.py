"""The doctor's verdict: which findings stop the demo, and that each comes with its remedy."""

import pytest

from heisd import doctor
from heisd.doctor import Check, diagnose
from heisd.errors import MissingExtra
from heisd.extras import install_command


def test_a_missing_package_names_its_command():
    check = doctor._package("no-such-package-anywhere")
    assert not check.is_ok
    assert check.fix == install_command("libero")


def test_a_failing_look_becomes_a_finding():
    def look():
        raise MissingExtra("no OpenGL backend\ncan render")

    assert doctor._guarded("opengl", look, "apt-get install x") == Check(
        "opengl", False, "no OpenGL backend can render", "apt-get install x"
    )


@pytest.mark.parametrize(("required", "can_run"), [(True, False), (False, True)])
def test_only_required_findings_stop_the_demo(monkeypatch, required, can_run):
    found = [Check("a", True, "fine"), Check("b", False, "broken", "mend it", required)]
    monkeypatch.setattr(doctor, "_checks", lambda: iter(found))
    assert diagnose()["demo_can_run"] is can_run


def test_the_table_ends_with_what_to_do(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "_checks", lambda: iter([Check("b", False, "brok[en]", "mend it")]))
    doctor.show(diagnose())
    out = capsys.readouterr().out
    assert "brok[en]" in out
    assert "to do: mend it" in out
    assert "cannot run yet" in out


def test_a_policy_that_ignores_its_images_is_found(monkeypatch):
    class Deaf:
        def encode(self, _):
            return None

        def prefill(self, _):
            from heisd.types import Scores

            return None, Scores(5, None, 1.0)

    monkeypatch.setattr("heisd.policies.bundle.load_policy", lambda _: Deaf())
    with pytest.raises(ValueError, match="exactly the same answer"):
        doctor.image_sensitivity("any")
