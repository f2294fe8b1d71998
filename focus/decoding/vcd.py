"""VCD, visual contrastive decoding: what the clear images say beyond what blurred ones say.

Source: Leng et al., "Mitigating Object Hallucinations in Large Vision-Language Models through
Visual Contrastive Decoding", CVPR 2024, arXiv 2311.16922, and the authors' code
(github.com/DAMO-NLP-SG/VCD). With images I, their diffused copies I' and contrast weight alpha,

    I'  = sqrt(abar_t) I + sqrt(1 - abar_t) eps            normalised pixels, step t of 1000
    l*  = (1 + alpha) logits(I, x, y_<t) - alpha logits(I', x, y_<t)
    l*  = -inf  where  logits(I, x, y_<t) < log(beta) + max logits(I, x, y_<t)

and y_t is chosen once from l* and appended to both rows. Published for one image; here all images
of the prompt are diffused at once. It differs from a FOCUS reference in two ways: the diffused
images still show their content, and nothing isolates one image from another.

As published, noise is added at the size at which the model sees the image. Deviation: the result is
rounded to 8 bit, as all noise of this project, before it is normalised again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
from PIL import Image
from torch import Tensor

from focus.branches import BranchPlan, Content, clean_plan
from focus.checks import Natural, Share, check_fields
from focus.contrast import ContrastWeight, plausible
from focus.decoding.base import Request
from focus.decoding.rows import AbstractPassDecoding, Pass
from focus.decoding.shown import ShownImages
from focus.models.loading import VisionLanguageModel
from focus.noise import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    DiffusionStep,
    diffusion_alpha_bar,
    noise_generator,
)


@final
@dataclass(frozen=True)
class Vcd(AbstractPassDecoding):
    """Visual contrastive decoding (arXiv 2311.16922).

    Cost: 2 rows per token, 2N image encodings (alpha = 0: those of plain decoding).

    It applies wherever plain decoding does.

    Args:
        alpha: contrast weight in [0, 10]; 0 drops the diffused row.
        beta: plausibility cut-off in [0, 1]; 0 keeps all tokens.
        step: diffusion step in 0..999; the later, the noisier.
        seed: first part of the key of every noise draw.
    """

    alpha: ContrastWeight = 1.0
    beta: Share = 0.1
    step: DiffusionStep = 500
    seed: Natural = 0

    name: ClassVar[str] = "vcd"

    def __post_init__(self) -> None:
        check_fields(self)

    def plan(self, num_images: int) -> BranchPlan:
        """The diffused row (the reference) and the clean row.

        Contents count the clean images from 0 and their diffused copies from `num_images`, in the
        order of the images that `decode` hands on.
        """
        clean = clean_plan(num_images)
        if self.alpha == 0:
            return clean
        diffused = tuple(Content(num_images + j, "clean") for j in range(num_images))
        return BranchPlan(rows=(diffused, *clean.rows), has_reference=True, units=clean.units)

    def combine(self, logits: Tensor) -> Tensor:
        """Next-token logits out of the rows, the clean one last.

        Args:
            logits: ``[2, sequences, vocab]``, or ``[1, sequences, vocab]`` where alpha is 0.

        Returns:
            ``[sequences, vocab]``.
        """
        clean = logits[-1]
        combined = clean
        if self.alpha > 0:
            combined = (1 + self.alpha) * clean - self.alpha * logits[0]
        return combined.masked_fill(~plausible(clean, beta=self.beta), -math.inf)

    def one_pass(self, vlm: VisionLanguageModel, request: Request) -> Pass:
        plan = self.plan(len(request.images))
        inputs = {}
        if self.alpha > 0:
            number, shown = len(request.images), ShownImages(vlm, request)
            inputs = {Content(index, "clean"): shown.clean(index) for index in range(number)}
            inputs |= {
                Content(number + index, "clean"): vlm.family.view_inputs(vlm.processor, views)
                for index, views in enumerate(self.diffused_views(shown))
            }
        return Pass(request, plan, self.combine, inputs=inputs)

    def diffused_views(self, shown: ShownImages) -> list[tuple[Image.Image, ...]]:
        """A diffused copy of every image, view by view as the model sees it.

        The draw is keyed by (seed, sample id, image index) and the view.
        """
        vlm, request = shown.vlm, shown.request
        return [
            tuple(
                self._diffuse(
                    vlm, view, noise_generator(self.seed, request.sample_id, index, None, k)
                )
                for k, view in enumerate(shown.views(index))
            )
            for index in range(len(request.images))
        ]

    def _diffuse(
        self, vlm: VisionLanguageModel, image: Image.Image, random: np.random.Generator
    ) -> Image.Image:
        processor = vlm.processor.image_processor
        mean = IMAGENET_MEAN if processor.image_mean is None else np.array(processor.image_mean)
        std = IMAGENET_STD if processor.image_std is None else np.array(processor.image_std)
        left = diffusion_alpha_bar(self.step)
        normalised = (np.asarray(image) / 255.0 - mean) / std
        noise = random.standard_normal(normalised.shape)
        mixed = math.sqrt(left) * normalised + math.sqrt(1.0 - left) * noise
        pixels = np.rint(np.clip(mixed * std + mean, 0.0, 1.0) * 255.0)
        return Image.fromarray(pixels.astype(np.uint8))
