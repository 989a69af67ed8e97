"""README.md of an export: first the one correct call, then where the weights come from and what may be done."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

CONTRACT = "dmd2.json"


def write(folder: Path, contract: Mapping[str, Any], name: str, call: str, notes: Sequence[str]) -> None:
    """README.md and the whole contract in a folder. call: with its code fence; notes: one list item each."""
    items = "\n".join(f"- {note}" for note in notes)
    text = f"# {name}\n\n{call}\n\n{items}\n\n## Recipe\n\n{recipe(contract)}\n\n## Licences\n\n{licences(contract)}\n"
    (folder / "README.md").write_text(text, encoding="utf-8")
    (folder / CONTRACT).write_text(json.dumps(contract, indent=2) + "\n", encoding="utf-8")


def recipe(contract: Mapping[str, Any]) -> str:
    """What was distilled, and how long."""
    details, trained = contract.get("details", {}), contract.get("trained", {})
    rows = {
        "teacher": named(str(details.get("model", ""))),
        "teacher's weights": f"SHA-256 {details['sha256']}" if "sha256" in details else None,
        "LoRAs fused into the teacher": ", ".join(Path(one["path"]).name for one in details.get("lora", ())),
        "guidance baked in": guidance(contract.get("guidance", 1.0)),
        "times": ", ".join(f"{t:g}" for t in contract["sampler"]["times"]),
        "timesteps": ", ".join(map(str, contract["sampler"].get("timesteps", ()))),
        "critic updates": trained.get("steps"),
        "generator updates": trained.get("generator_updates"),
        "weights": trained.get("weights"),
        "made with": f"dmd2cli {contract.get('dmd2cli')}, distribution matching distillation (arXiv 2405.14867)",
    }
    kept = [f"| {name} | {value} |" for name, value in rows.items() if value not in (None, "")]
    return "\n".join(["| | |", "|---|---|", *kept, "", f"All of it: `{CONTRACT}`."])


def named(model: str) -> str:
    """A name of the hub as it is; of a local path its last part."""
    return Path(model).name if Path(model).is_absolute() else model


def guidance(scale: float | Mapping[str, float]) -> str:
    """One scale, or the range that the student reads."""
    return f"{scale:g}" if not isinstance(scale, Mapping) else f"read: {scale['min']:g} to {scale['max']:g}"


def licences(contract: Mapping[str, Any]) -> str:
    """Of the base model; our own code puts none on weights."""
    base = contract.get("details", {}).get("licence", "that of the base model")
    items = [*inherited(contract), base, "of the images and prompts it was trained on, if any: the trainer's to say"]
    return "".join(f"- {item}\n" for item in items)


def inherited(contract: Mapping[str, Any]) -> list[str]:
    """The licence of weights that others have published, where the student is these, or started from them."""
    trained = contract.get("trained", {})
    named = {"these weights": trained.get("converted", {}), "the weights that it started from": trained.get("init", {})}
    return [f"{whose}: {source['licence']}" for whose, source in named.items() if source.get("licence")]
