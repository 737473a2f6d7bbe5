"""`delora-sd doctor`: every missing thing comes with what to do, and the exit code says whether the main job runs."""

import importlib

import pytest

from delora_sd.cli import checks, doctor
from delora_sd.cli.doctor import Finding, examine, load_checks
from delora_sd.cli.main import main
from delora_sd.errors import UserError
from delora_sd.settings import DoctorConfig, ModelConfig

CONFIG = DoctorConfig(self_test=False)


def one(findings: list[Finding], name: str) -> Finding:
    return next(finding for finding in findings if finding.name == name)


def fake_checks(monkeypatch, *results) -> None:
    def check(result):
        def check_something(_):
            if isinstance(result, Exception):
                raise result
            return [result]

        return check_something

    monkeypatch.setattr(doctor, "load_checks", lambda: [check(result) for result in results])


def test_the_maker_and_the_judge_both_bring_checks():
    names = [check.__name__ for check in load_checks()]
    assert names[: len(checks.CHECKS)] == [check.__name__ for check in checks.CHECKS]
    assert "check_encoders" in names


def test_whatever_is_not_ok_says_what_to_do():
    cheap = [check for check in load_checks() if check is not checks.check_by_doing]
    findings = [finding for check in cheap for finding in check(CONFIG)]
    assert {finding.topic for finding in findings} >= {"software", "devices", "disk", "bases", "photos", "judges"}
    assert all(finding.found for finding in findings)
    assert [finding.name for finding in findings if finding.state != "ok" and not finding.advice] == []


def test_absent_things_are_fine_and_broken_ones_fail(monkeypatch, capsys):
    fine = Finding(topic="t", name="gpu", state="absent", found="none [here]", advice="buy one")
    broken = Finding(topic="t", name="torch", state="broken", found="too old", advice="pip install torch")
    fake_checks(monkeypatch, fine)
    examine(CONFIG)
    printed = capsys.readouterr().out
    assert "none [here]" in printed and "buy one" in printed
    fake_checks(monkeypatch, fine, broken)
    assert main(["doctor"]) == 2
    assert "the main job cannot run here: torch" in capsys.readouterr().err


def test_a_check_that_fails_is_a_finding_and_the_others_go_on(monkeypatch, capsys):
    fine = Finding(topic="t", name="later", state="ok", found="still examined")
    fake_checks(monkeypatch, ZeroDivisionError("oops\nmore"), fine)
    with pytest.raises(UserError, match="something"):
        examine(CONFIG)
    printed = capsys.readouterr().out
    assert "ZeroDivisionError: oops" in printed and "still examined" in printed


def test_old_and_missing_packages_are_named_with_the_pip_line(monkeypatch):
    versions = {"torch": "2.1.0", "peft": None}
    genuine = checks.package_version
    monkeypatch.setattr(checks, "package_version", lambda name: versions.get(name, genuine(name)))
    found = one(checks.check_packages(CONFIG), "packages")
    assert found.state == "broken" and "torch 2.1.0, needed >=2.6" in found.found
    assert "peft is not installed" in found.found and found.advice == "pip install 'peft>=0.18' 'torch>=2.6'"


def test_a_torchvision_for_another_torch_is_broken(monkeypatch):
    def refuse(name: str):
        if name == "torchvision":
            raise RuntimeError("operator torchvision::nms does not exist")
        return importlib.import_module(name)

    monkeypatch.setattr(checks, "import_module", refuse)
    found = one(checks.check_packages(CONFIG), "torchvision")
    assert found.state == "broken" and "nms" in found.found and "constraints.txt" in found.advice


def test_a_full_disk_is_broken(monkeypatch):
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1 << 20}))
    findings = checks.check_disk(CONFIG)
    assert [finding.state for finding in findings] == ["broken", "absent"]


def test_a_base_that_is_not_cached_is_absent_not_broken(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    config = DoctorConfig(model=ModelConfig(base="nobody/nothing"), self_test=False)
    findings = checks.check_bases(config)
    assert one(findings, "nobody/nothing").state == "absent"
    assert one(findings, "sd15-architecture").state == "ok"


def test_the_self_test_trains_and_generates(tiny_sd, photo_folder, tmp_path, monkeypatch):
    from delora_sd import miniature

    dataset = tmp_path / "subjects"
    dataset.mkdir()
    (dataset / "rex").symlink_to(photo_folder)
    (dataset / "classes.csv").write_text("subject_name,class\nrex,dog\n")
    monkeypatch.setattr(miniature, "BASE_FOLDER", tiny_sd)
    monkeypatch.setattr(miniature, "SUBJECTS_FOLDER", dataset)
    (finding,) = checks.check_by_doing(DoctorConfig())
    assert finding.state == "ok", finding.found
    (finding,) = checks.check_bases(DoctorConfig(model=ModelConfig(base="miniature")))[:1]
    assert finding.state == "ok"


def test_a_self_test_that_fails_is_broken(tmp_path, monkeypatch):
    from delora_sd import miniature

    monkeypatch.setattr(miniature, "SUBJECTS_FOLDER", tmp_path)
    (finding,) = checks.check_by_doing(DoctorConfig())
    assert finding.state == "broken" and finding.advice
