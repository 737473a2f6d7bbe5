"""The judge's checks for `delora-sd doctor`: which encoders load without a network."""

from delora_sd.cli.doctor import Check, Finding
from delora_sd.errors import UserError
from delora_sd.settings import DoctorConfig


def check_encoders(config: DoctorConfig) -> list[Finding]:
    """Every judge's weights: bundled, or in the hub's cache. Which language model is asked is for the user to say."""
    from delora_eval.scoring.judges.networks.weights import ENCODERS, VLM

    return [_encoder_finding(encoder_id) for encoder_id in ENCODERS if encoder_id != VLM]


CHECKS: list[Check] = [check_encoders]


def _encoder_finding(encoder_id: str) -> Finding:
    from delora_eval.scoring.judges.networks.weights import ENCODERS, find_weights
    from delora_eval.settings import EncoderConfig

    spec = ENCODERS[encoder_id]
    is_bundled = spec.kind == "miniature"
    try:
        weights = find_weights(encoder_id, EncoderConfig(offline=True))
    except (UserError, OSError, StopIteration) as error:
        if is_bundled:
            advice = "install the project again: its bundled files are missing"
            found = str(error) or "no weights"
            return Finding(topic="judges", name=encoder_id, state="broken", found=found, advice=advice)
        source = f"go online once, or put {spec.file} of {spec.repository} here" if spec.repository else spec.origin
        advice = f"{source}: encoders.weights_dir=FOLDER"
        return Finding(topic="judges", name=encoder_id, state="absent", found="not on this machine", advice=advice)
    return Finding(topic="judges", name=encoder_id, state="ok", found=f"{weights.file} ({weights.hash})")
