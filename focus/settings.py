"""How tokens are chosen once there is one distribution, in the words of `model.generate`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import Field
from transformers import GenerationConfig

from focus.checks import Natural, Positive, check_fields
from focus.errors import InvalidValueError

_NEUTRAL: dict[str, Any] = {
    "repetition_penalty": 1.0,
    "encoder_repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "length_penalty": 1.0,
    "exponential_decay_length_penalty": None,
    "min_length": 0,
    "min_new_tokens": None,
    "max_time": None,
    "stop_strings": None,
    "bad_words_ids": None,
    "sequence_bias": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "min_p": None,
    "top_h": None,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "guidance_scale": None,
    "watermarking_config": None,
    "remove_invalid_values": False,
    "renormalize_logits": False,
    "num_beams": 1,
    "penalty_alpha": None,
    "dola_layers": None,
}
#: What `generate` would take from a checkpoint's generation config without being asked, each with
#: the value that changes nothing. Qwen2.5-VL's, for one, has a repetition penalty of 1.05, which
#: acts on the sum of N branches otherwise than on one row. Other versions of `transformers` do not
#: know every name.
NEUTRAL: Mapping[str, Any] = MappingProxyType(
    {name: value for name, value in _NEUTRAL.items() if hasattr(GenerationConfig(), name)}
)


@dataclass(frozen=True)
class GenerationSettings:
    """How tokens are chosen once the logits are combined; the same for every strategy.

    Args:
        max_new_tokens: upper bound of the answer's length, in tokens.
        temperature: 0 is greedy; above, ONE draw per step and sequence.
        top_p: nucleus mass in (0, 1]; None keeps the checkpoint's own setting.
        top_k: number of candidates, 0 for all; None keeps the checkpoint's own setting.
        num_return_sequences: sequences drawn from the one prefill; above 1 needs a temperature.
        seed: key of the sampling draws.
        checkpoint_defaults: leave the other defaults of the checkpoint's generation config in force
            (repetition penalty, suppressed tokens, ...), as published; otherwise all of them are
            neutral, see `NEUTRAL`.
    """

    max_new_tokens: Positive = 64
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] | None = 1.0
    top_k: Natural | None = 0
    num_return_sequences: Positive = 1
    seed: int = 0
    checkpoint_defaults: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        if self.num_return_sequences > 1 and self.temperature == 0:
            accepted = "1 where temperature is 0 (greedy sequences would all be equal)"
            raise InvalidValueError("num_return_sequences", self.num_return_sequences, accepted)

    def generate_kwargs(self) -> dict[str, Any]:
        """The same settings in the words of `model.generate`."""
        kwargs: dict[str, Any] = {} if self.checkpoint_defaults else dict(NEUTRAL)
        kwargs |= {
            "max_new_tokens": self.max_new_tokens,
            "num_return_sequences": self.num_return_sequences,
            "do_sample": self.temperature > 0,
        }
        if self.temperature > 0:
            kwargs["temperature"] = float(self.temperature)  # `generate` refuses integers
            kwargs |= {
                k: getattr(self, k) for k in ("top_p", "top_k") if getattr(self, k) is not None
            }
        else:  # otherwise a checkpoint's sampling defaults raise warnings about being ignored
            kwargs |= {"temperature": None, "top_p": None, "top_k": None}
        return kwargs

    def resolved(self, checkpoint: GenerationConfig) -> dict[str, Any]:
        """What decides the tokens, the checkpoint's own part included, without what is neutral.

        Args:
            checkpoint: `model.generation_config`.
        """
        own = self.generate_kwargs()
        names = [*own, *NEUTRAL, "top_p", "top_k", "eos_token_id", "pad_token_id"]
        values = {name: own.get(name, getattr(checkpoint, name, None)) for name in names}
        return {k: v for k, v in values.items() if v is not None and v != NEUTRAL.get(k)}
