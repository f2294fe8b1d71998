"""Rows put together from keys and values of images that were computed once.

A branch of FOCUS needs its TEXT to see one image clean and noise elsewhere. Whether the clean
image's own keys and values were computed behind clean images or behind noise is another question,
and here they are not computed anew for every branch. With text segments x_0, .., x_N around images
1, .., N and c_j the image that row r shows in slot j,

    K_r = [K(x_0), K(c_1), .., K(c_N), K_r(x_1 .. x_N)]
    K(c_j)   from a pass over x_0, c_1, x_1, .., c_N with all images of c_j's kind    flow ``kept``
             the same, but noise that stands behind a clean image of its row from a pass of that
             noise over x_0, .., x_{j-1} with all images clean                     flow ``crossed``
             or with a photograph in the place of each, the same always           flow ``stand_in``
             from a pass over x_0 and c_j alone, at the positions of the prompt   flow ``isolated``
    K_r(x)   row r's own text, which sees x_0, the images before it, and the row's text before it

So the images of a question run once, as in plain decoding, noise that a run shares once per layout
(crossed, all of it but the first once more per question; with a stand-in once more per layout), and
the short text once per row. Row by row this differs from FOCUS in keys and values of images alone:
a clean one has seen clean images where FOCUS shows it noise, and noise behind it has seen noise, or
all clean images before it, or photographs, where FOCUS shows it the clean image and noise. A row
may also hide an image from its text.

Keys of isolated images depend on the text before all images, the image and its positions; they are
not rotated to other positions, since what they have read of that text depends on the distance too.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, final

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from focus.cache import States, composed_cache
from focus.errors import UnsupportedGenerationError
from focus.hooks import MASKABLE, removed_afterwards
from focus.models.base import AbstractFamily, ImageFeatures
from focus.prefill import AbstractRows, PromptRow, SharedPrefixRows
from focus.prompts import Prompt

#: Where keys and values of images come from: the ``row`` itself, or see the head of this file.
Flow = Literal["row", "kept", "crossed", "stand_in", "isolated"]


@dataclass(frozen=True)
class Run:
    """A pass over the beginning of a prompt that leaves keys and values of its images.

    Args:
        prompt: cut behind its last image.
        images: what stands in each span, by `focus.models.base.ImageInputs.key`.
        beside: further images and their slots, each behind what stands before its slot. Nothing
            sees them.
    """

    prompt: Prompt
    images: tuple[str, ...]
    beside: tuple[tuple[int, str], ...] = ()

    @cached_property
    def key(self) -> Hashable:
        """Equal for runs with equal results: ids, positions and images."""
        prompt = self.prompt
        parts = (prompt.input_ids, prompt.position_ids)
        texts = (part.cpu().numpy().tobytes() for part in parts)
        return (*texts, prompt.spans, self.images, self.beside)

    @property
    def layout(self) -> Hashable:
        """Equal for runs that can go through the model together."""
        return self.prompt.spans, tuple(slot for slot, _ in self.beside)


@dataclass(frozen=True)
class ComposedRow:
    """One row of one prompt.

    Args:
        prompt: its ids, positions and image spans.
        sources: for each slot, the run that its image comes from, and the how manyeth it is there.
        hidden: for each slot, whether the text of the row does not see it.
    """

    prompt: Prompt
    sources: tuple[tuple[Run, int], ...]
    hidden: tuple[bool, ...]


@dataclass(frozen=True)
class RunStates:
    """What a run leaves: keys and values of the text before all images, and of each image, those
    beside the others last."""

    lead: States
    images: tuple[States, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all of them."""
        pieces = (self.lead, *self.images)
        return sum(part.nbytes for piece in pieces for layer in piece for part in layer)


def kept_run(prompt: Prompt, images: Sequence[str], beside: Sequence[tuple[int, str]] = ()) -> Run:
    """All images of one kind in one pass, each behind those before it."""
    end = prompt.spans[-1][1]
    return Run(_part(prompt, torch.arange(end), prompt.spans), tuple(images), tuple(beside))


def isolated_run(prompt: Prompt, slot: int, image: str) -> Run:
    """One image behind the text before all images."""
    lead, (start, end) = prompt.spans[0][0], prompt.spans[slot]
    places = torch.cat([torch.arange(lead), torch.arange(start, end)])
    return Run(_part(prompt, places, ((lead, lead + end - start),)), (image,))


def _part(prompt: Prompt, places: Tensor, spans: tuple[tuple[int, int], ...]) -> Prompt:
    ids, positions = prompt.input_ids, prompt.position_ids
    there = places.to(ids.device)
    return Prompt(ids[:, there], spans, positions[..., there.to(positions.device)], prompt.text)


@final
class ComposedRows(AbstractRows):
    """Rows whose images come from runs; see the head of this file."""

    def __init__(
        self,
        model: PreTrainedModel,
        family: AbstractFamily,
        rows: Sequence[ComposedRow],
        features: Mapping[str, ImageFeatures],
        *,
        known: MutableMapping[Hashable, RunStates],
        layers: Sequence[int] | None = None,
        most_tokens: int | None = None,
    ) -> None:
        """
        Args:
            rows: of any prompts with equal image spans.
            features: encoded image of everything that is not `known`.
            known: what earlier runs have left; what is computed here is added.
            layers: decoder layers in which images are hidden; None for all.
            most_tokens: of all rows together in one pass.

        Raises:
            UnsupportedGenerationError: the model's attention takes no mask of ours.
        """
        super().__init__(model, family)
        self.rows, self._features, self._known = tuple(rows), features, known
        self._most_tokens = most_tokens
        self._check_attention()
        last = [int(row.prompt.position_ids.max()) + 1 for row in self.rows]
        self._positions = torch.tensor(last)
        #: ``[rows, keys before the text]``, which of them are hidden; None where none is.
        self._hidden: Tensor | None = None
        self._open: list[nn.Module] = []
        if layers is not None:
            every = family.decoder_layers(model)
            self._open = [layer.get_submodule("self_attn") for k, layer in enumerate(every)
                          if k not in layers]  # fmt: skip

    def select(self, indices: Sequence[int]) -> None:
        super().select(indices)
        self._hidden = None if self._hidden is None else self._hidden[list(indices)]

    def prefill(self) -> Tensor:
        runs = {run.key: run for row in self.rows for run, _ in row.sources}
        states = self._states(runs)
        # The text before all images is the same in every run of a prompt.
        prompts = {id(row.prompt): row.prompt for row in self.rows}
        leading = {key: _lead(prompt) for key, prompt in prompts.items()}
        leads = {leading[id(row.prompt)]: states[row.sources[0][0].key].lead for row in self.rows}
        reading = [leading[id(row.prompt)] for row in self.rows]
        pieces = [_piece(leads, reading)] if self.rows[0].prompt.spans[0][0] else []
        for slot in range(len(self.rows[0].prompt.spans)):
            shown = [(row.sources[slot][0].key, row.sources[slot][1]) for row in self.rows]
            images = {(key, at): states[key].images[at] for key, at in shown}
            pieces.append(_piece(images, shown))
        self._cache = composed_cache(pieces)
        return self._run_text()

    def _states(self, runs: Mapping[Hashable, Run]) -> dict[Hashable, RunStates]:
        """What every run leaves; those of one layout that are not known go through together."""
        found = {key: self._known[key] for key in runs if key in self._known}
        alike: dict[Hashable, list[Run]] = {}
        for key, run in runs.items():
            if key not in found:
                alike.setdefault(run.layout, []).append(run)
        for group in alike.values():
            # Equal pictures at two places are two things, so that their places are in their names.
            names = [tuple((image, _place(run.prompt)) for image in run.images) for run in group]
            features = {name: self._features[name[0]] for each in names for name in each}
            rows = SharedPrefixRows(
                self.model, self.family,
                [PromptRow(run.prompt, name) for run, name in zip(group, names, strict=True)],
                features, most_tokens=self._most_tokens,
            )  # fmt: skip
            rows.prefill()
            if group[0].beside:
                self._run_beside(rows, group)
            layers = rows.states()
            for i, run in enumerate(group):
                found[run.key] = _left_by(run, [(keys[i], values[i]) for keys, values in layers])
        for key in runs:
            # The cache refuses what is larger than all of it.
            if found[key].nbytes <= getattr(self._known, "maxsize", found[key].nbytes):
                self._known[key] = found[key]
        return found

    def _run_beside(self, rows: SharedPrefixRows, group: Sequence[Run]) -> None:
        """Images beside those of runs, all in one pass: each sees what is before its slot, and
        itself."""
        prompt = group[0].prompt
        spans = {slot: prompt.spans[slot] for slot, _ in group[0].beside}
        places = torch.cat([torch.arange(start, end) for start, end in spans.values()])
        starts = torch.cat([torch.full((end - start,), start) for start, end in spans.values()])
        before = torch.arange(prompt.spans[-1][1]) < starts[:, None]
        own = (places <= places[:, None]) & (starts == starts[:, None])
        rows.extend(
            torch.cat([run.prompt.input_ids[:, places] for run in group]),
            torch.cat([run.prompt.position_ids[..., places] for run in group], dim=-2),
            [[self._features[image] for _, image in run.beside] for run in group],
            self._written(torch.cat([before, own], dim=-1)[None, None].to(prompt.input_ids.device)),
        )

    def _run_text(self) -> Tensor:
        """All text behind the first image, of all rows together; it ends at one place."""
        device = self.rows[0].prompt.input_ids.device
        spans = self.rows[0].prompt.spans
        prompts = {id(row.prompt): row.prompt for row in self.rows}
        texts = {key: _Text.of(prompt) for key, prompt in prompts.items()}
        width = max(len(text.ids) for text in texts.values())
        texts = {key: text.padded(width) for key, text in texts.items()}
        mine = [texts[id(row.prompt)] for row in self.rows]
        ids = torch.stack([text.ids for text in mine]).to(device)
        positions = torch.stack([text.positions for text in mine], dim=-2).to(device)

        lead = spans[0][0]
        slots = torch.cat([torch.full((lead,), -1), *(torch.full((end - start,), j)
                           for j, (start, end) in enumerate(spans))])  # fmt: skip
        there = torch.stack([text.there for text in mine])
        images = torch.stack([text.seen for text in mine])[:, :, None] > slots
        own = torch.ones(width, width, dtype=torch.bool).tril() & there[:, None, :]
        own |= torch.eye(width, dtype=torch.bool)  # padding sees itself: attention to something
        visible = torch.cat([images, own], dim=-1)
        hidden = torch.tensor([row.hidden for row in self.rows])
        if hidden.any():
            self._hidden = (hidden[:, slots.clamp(min=0)] & (slots >= 0)).to(device)
        if not there.all():
            self._seen = torch.cat([there.new_ones(len(mine), len(slots)), there], dim=1).long()
        merely_causal = bool(there.all() and images.all()) and self._hidden is None
        mask = None if merely_causal else visible[:, None].to(device)
        return self.extend(ids, positions, [[]] * len(mine), mask)

    def _forward(
        self,
        input_ids: Tensor,
        positions: Tensor,
        features: Sequence[ImageFeatures] = (),
        mask: Tensor | None = None,
    ) -> Tensor:
        """`mask` is boolean here, ``[rows, 1, tokens, keys]``, and shows hidden images too."""
        if self._hidden is None:
            given = None if mask is None else self._written(mask)
            return super()._forward(input_ids, positions, features, given)
        if mask is None:  # a decode step
            keys = self._cache.get_seq_length() + input_ids.shape[1]
            seen = torch.ones(len(input_ids), keys) if self._seen is None else self._seen
            mask = seen.bool()[:, None, None].to(input_ids.device)
        rest = mask.shape[-1] - self._hidden.shape[1]
        hidden = torch.nn.functional.pad(self._hidden, (0, rest))[:, None, None]
        with _with_mask(self._open, self._written(mask)):
            return super()._forward(input_ids, positions, features, self._written(mask & ~hidden))

    def _written(self, visible: Tensor) -> Tensor:
        """A boolean mask as the model's attention takes it."""
        if self._attention == "sdpa":
            return visible
        least = torch.finfo(self.model.dtype).min
        return torch.zeros(1, dtype=self.model.dtype, device=visible.device).where(visible, least)

    @property
    def _attention(self) -> str | None:
        attention: str | None = self.model.config.get_text_config()._attn_implementation
        return attention

    def _check_attention(self) -> None:
        config = self.model.config.get_text_config()
        if self._attention not in MASKABLE:
            raise UnsupportedGenerationError(
                f"attention={self._attention!r} takes no mask of ours, which composed and hidden "
                "images need; load the model with attention=sdpa or eager"
            )
        if any("sliding" in kind for kind in getattr(config, "layer_types", None) or ()):
            raise UnsupportedGenerationError(
                "layers with a sliding window are not supported with composed or hidden images: "
                "their keys are not in the order of the prompt; use decoding=focus"
            )


@dataclass(frozen=True)
class _Text:
    """The text behind the first image of a prompt.

    Args:
        ids: ``[tokens]``.
        positions: ``[.., tokens]``.
        seen: ``[tokens]``, images before each.
        there: ``[tokens]``, False for padding.
    """

    ids: Tensor
    positions: Tensor
    seen: Tensor
    there: Tensor

    @classmethod
    def of(cls, prompt: Prompt) -> _Text:
        ids, positions = prompt.input_ids[0].cpu(), prompt.position_ids[..., 0, :].cpu()
        place = torch.arange(len(ids))
        starts = torch.tensor([start for start, _ in prompt.spans])
        image = torch.zeros(len(ids), dtype=torch.bool)
        for start, end in prompt.spans:
            image[start:end] = True
        text = place[~image & (place >= starts[0])]
        seen = (text[:, None] >= starts).sum(dim=1)
        return cls(ids[text], positions[..., text], seen, torch.ones(len(text), dtype=torch.bool))

    def padded(self, width: int) -> _Text:
        """The same with padding on the left, which sees the text before all images alone."""
        more = (width - len(self.ids), 0)
        pad = torch.nn.functional.pad
        return _Text(pad(self.ids, more), pad(self.positions, more), pad(self.seen, more),
                     pad(self.there, more, value=False))  # fmt: skip


def _piece(
    entries: Mapping[Any, States], reading: Sequence[Hashable]
) -> tuple[list[States], list[int]]:
    """Every entry once, and which of them each row reads."""
    order = {key: at for at, key in enumerate(entries)}
    return list(entries.values()), [order[key] for key in reading]


def _lead(prompt: Prompt) -> bytes:
    return prompt.input_ids[0, : prompt.spans[0][0]].cpu().numpy().tobytes()


def _place(prompt: Prompt) -> tuple[int, ...]:
    """Position of the first image token, along each axis."""
    return tuple(prompt.position_ids[..., prompt.spans[0][0]].flatten().tolist())


def _left_by(run: Run, layers: Iterable[tuple[Tensor, Tensor]]) -> RunStates:
    """Pieces of a run's keys and values, ``[heads, tokens, size]``, as copies of their own."""
    spans, end = run.prompt.spans, run.prompt.input_ids.shape[1]
    pieces = [(0, spans[0][0]), *spans]
    for slot, _ in run.beside:  # behind everything else, in their order
        length = spans[slot][1] - spans[slot][0]
        pieces.append((end, end + length))
        end += length
    layers = list(layers)
    lead, *images = (
        tuple((keys[:, a:b].clone(), values[:, a:b].clone()) for keys, values in layers)
        for a, b in pieces
    )
    return RunStates(lead, tuple(images))


@contextmanager
def _with_mask(attentions: Sequence[nn.Module], mask: Tensor) -> Iterator[None]:
    """Lets some attention modules see by a mask of their own."""

    def see(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return args, {**kwargs, "attention_mask": mask.to(kwargs["hidden_states"].device)}

    with removed_afterwards() as handles:
        for attention in attentions:
            handles.append(attention.register_forward_pre_hook(see, with_kwargs=True))
        yield
