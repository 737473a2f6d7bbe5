"""From the form to commands: what the page runs is what one would type, and runs that can share a pack do."""

import json

import pytest

from delora_sd.cli.main import load_commands, parse
from delora_sd.config.load import to_yaml
from delora_sd.errors import UserError
from delora_sd.files.run_folder import write_text
from delora_sd.studio.photos.captions import save_caption
from delora_sd.studio.photos.intake import take_uploads
from delora_sd.studio.photos.subject import create_subject, list_photos
from delora_sd.studio.results.draw import DrawWish, draw_commands
from delora_sd.studio.trainings import cost
from delora_sd.studio.trainings.plan import Wish, find_packs, pack_commands, plan_trainings
from delora_sd.studio.trainings.presets import METHODS, PRESETS, preset_settings


def wish(**changed) -> Wish:
    return Wish(**({"subjects": ("rex",), "methods": ("delora",), "preset": "quick", "base": "miniature"} | changed))


@pytest.mark.parametrize("base", ["miniature", "stable-diffusion-v1-5/stable-diffusion-v1-5"])
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_gives_settings_that_training_knows(folder, rex, preset, base):
    trainings = plan_trainings(folder, wish(methods=tuple(METHODS), preset=preset, base=base))
    for training in trainings:
        assert (
            training.config.training.num_steps
            == preset_settings(preset, base=base, method="lora")["training.num_steps"]
        )
        assert training.config.training.num_steps % training.config.training.checkpoint_every == 0


def test_the_command_that_is_shown_is_what_the_command_line_understands(folder, rex):
    training = plan_trainings(folder, wish(more="adapter.rank=4\npreview.prompts=a {identifier} {class_word}"))[0]
    assert training.words[0] == "train"
    assert parse(load_commands()["train"], list(training.words[1:])) == training.config
    assert training.config.adapter.rank == 4 and training.config.data.photos == str(rex)


def test_the_same_wish_is_the_same_run_and_another_gets_a_folder_of_its_own(folder, rex):
    first = plan_trainings(folder, wish())[0]
    write_text(folder.runs / first.run / "config.yaml", to_yaml(first.config))
    assert plan_trainings(folder, wish())[0] == first
    other = plan_trainings(folder, wish(seed=1))[0]
    assert other.run == f"{first.run}-2"


def test_subjects_of_one_method_share_a_pack_and_others_do_not(folder, rex, uploads):
    create_subject(folder, "tom", "cat")
    take_uploads(folder.subject("tom"), uploads)
    trainings = plan_trainings(folder, wish(subjects=("rex", "tom"), methods=("delora", "lora", "oft")))
    packs = [sorted(training.run for training in pack) for pack in find_packs(trainings)]
    assert packs == [
        ["rex-delora-quick", "tom-delora-quick"],
        ["rex-lora-quick", "tom-lora-quick"],
        ["rex-oft-quick"],
        ["tom-oft-quick"],
    ]
    command = pack_commands(folder, find_packs(trainings)[0])[0]
    assert parse(load_commands()["pack"], list(command[1:])).runs == command[1:] and command[0] == "pack"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"subjects": ()}, "choose at least one"),
        ({"subjects": ("rox",)}, "did you mean 'rex'"),
        ({"more": "training.num_stps=3"}, "did you mean 'training.num_steps'"),
        ({"more": "output_dir=/tmp/x"}, "decided by the page"),
        ({"more": "--debug"}, "expected key=value"),
        ({"use_captions": True}, "have no caption"),
    ],
)
def test_what_cannot_be_trained_is_said_before_anything_is_written(folder, rex, changed, said):
    with pytest.raises(UserError, match=said):
        plan_trainings(folder, wish(**changed))
    assert list(folder.runs.iterdir()) == []


def test_captions_are_trained_on_as_they_are_when_they_name_the_subject(folder, rex):
    for photo in list_photos(rex):
        save_caption(photo, "{identifier} {class_word} in the snow")
    assert plan_trainings(folder, wish(use_captions=True))[0].config.data.instance_template == "{caption}"
    save_caption(list_photos(rex)[0], "in the snow")
    template = plan_trainings(folder, wish(use_captions=True))[0].config.data.instance_template
    assert template == "a photo of {identifier} {class_word}, {caption}"


def test_the_bill_is_the_sum_of_packs_and_names_what_they_save(folder, rex, uploads):
    create_subject(folder, "tom", "cat")
    take_uploads(folder.subject("tom"), uploads)
    trainings = plan_trainings(folder, wish(subjects=("rex", "tom")))
    packs = find_packs(trainings)
    assert cost.add_up(folder, packs) is None
    measured = {
        "device": "a CPU", "step_seconds": 0.1, "more_seconds": 0.04, "fixed_bytes": 5e7, "bytes_per_adapter": 2e7,
        "free_bytes": 1e9,
    }  # fmt: skip
    cost.cost_file(folder, trainings[0].config).write_text(json.dumps(measured))
    bill = cost.add_up(folder, packs)
    steps = trainings[0].config.training.num_steps
    assert bill.seconds == pytest.approx(steps * 0.14) and bill.alone_seconds == pytest.approx(2 * steps * 0.1)
    assert bill.peak_bytes == pytest.approx(9e7)


def test_a_cost_is_shared_by_what_takes_the_same_and_by_nothing_else(folder, rex):
    def file(**changed):
        return cost.cost_file(folder, plan_trainings(folder, wish(**changed))[0].config)

    assert file() == file(preset="thorough") == file(seed=3)
    assert len({file(), file(more="adapter.rank=4"), file(methods=("lora",)), file(more="training.batch_size=4")}) == 4


def test_images_are_asked_for_with_what_they_are_compared_with(folder, rex):
    training = plan_trainings(folder, wish())[0]
    write_text(folder.runs / training.run / "config.yaml", to_yaml(training.config))
    asked = DrawWish(
        run=training.run, prompts='a "{identifier}" {class_word}, sunny\n[a] dog', with_base=True, with_step=40
    )
    commands = draw_commands(folder, asked)
    configs = [parse(load_commands()["generate"], list(command[1:])) for command in commands]
    assert configs[0].prompts == ('a "{identifier}" {class_word}, sunny', "[a] dog")
    assert [config.strength for config in configs] == [1, 0, 1] and configs[2].step == 40
    assert {(config.seed, config.prompts, config.guidance) for config in configs} == {(0, configs[0].prompts, 3)}


@pytest.mark.parametrize("prompts", ["", "/etc/passwd.txt", "dreambooth", "a ] dog\na cat"])
def test_a_prompt_is_never_a_file_nor_two(folder, rex, prompts):
    training = plan_trainings(folder, wish())[0]
    write_text(folder.runs / training.run / "config.yaml", to_yaml(training.config))
    with pytest.raises(UserError, match="prompts"):
        draw_commands(folder, DrawWish(run=training.run, prompts=prompts))
