"""The tasks of MMLongBench: their files, fields, prompts and what counts as right.

Prompts are `data.py` of `EdinburghNLP/MMLongBench`, which the authors of FOCUS repeat. Contexts
hold ``<image>`` where an image stands.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from focus.randomness import generator

Row = Mapping[str, Any]
_FORMAT = "Write your answer in the following format:\nAnswer: [answer]\n\n"
_ASK = "{context}\n\nQuestion: {question}"
_INTERLEAVED = "You are given interleaved text and images. "
_TEMPLATES = {
    "vrag": "Use the given documents to write a concise and short answer to the question about "
    "the entity shown in the image. " + _FORMAT + _ASK,
    "haystack": "You are given a set of images. Please answer the question in Yes or No based on "
    "the given images. " + _FORMAT + _ASK,
    "needle": _INTERLEAVED + "Please answer the question based on the given text and images. "
    + _FORMAT + _ASK,
    "needle_choice": _INTERLEAVED + "Please answer the question with the option's letter "
    "(A, B, etc.) based on the given text and images. " + _FORMAT + _ASK,
    "icl": "You need to recognize entities in images. Use the provided mapping from the image to "
    'label to assign a label to the test image. Only output "label: {{label}}" and nothing else.'
    "\n\nTraining examples:\n{context}\n\nNow classify this image: {question}",
    "gov": "You are given a government report from U.S. Government Accountability Office (GAO), "
    "and you are tasked to summarize the report. Write a concise summary (around 550 words) "
    "organized in multiple paragraphs. Where applicable, the summary should contain a short "
    "description of why GAO did this study, what GAO found, and what GAO recommends.\n\n"
    "Government Report:\n{context}\n\nNow please summarize the report.",
    "lexsum": "You are given the legal documents in a civil rights lawsuit, and you are tasked to "
    "summarize the case. Write a concise summary of one paragraph (200 to 250 words). The summary "
    "should contain a short description of the background, the parties involved, and the outcomes "
    "of the case.\n\nLegal documents:\n{context}\n\nNow please summarize the case.",
    "document": "You are given a document with text and images, and a question. Answer the "
    "question as concisely as you can, using a single phrase or sentence if possible. If the "
    "question cannot be answered based on the information in the article, write 'Not answerable.' "
    + _FORMAT + _ASK,
}  # fmt: skip


@dataclass(frozen=True)
class Content:
    """A row made into a question.

    Args:
        context: documents or images before the question.
        question: the question.
        images: paths below the image folder, in the order of the placeholders.
        gold: the right answer, as the data set has it.
        extra: further facts that the metric needs.
    """

    context: str
    question: str
    images: tuple[str, ...]
    gold: Any
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """One task.

    Args:
        file: below the text folder; ``{k}`` stands for the context length in thousands of tokens.
        template: key of the prompt.
        metric: ``contained``, ``yes_no``, ``sum``, ``letter``, ``label``, ``rouge``, ``document``.
        fields: required fields of a row and the Python types they may have.
        content: from a row to its question.
        prefix: what introduces the answer.
        cluster: field of rows that share images; empty for the id.
    """

    file: str
    template: str
    metric: str
    fields: Mapping[str, tuple[type, ...]]
    content: Callable[[Row], Content]
    prefix: str = "Answer:"
    cluster: str = ""

    def prompt(self, content: Content, *, prefix: bool) -> str:
        """Prompt text with placeholders.

        Args:
            content: of the row.
            prefix: whether the prefix closes it, as in the benchmark's own `prompt_template`.
        """
        text = _TEMPLATES[self.template].format(context=content.context, question=content.question)
        return f"{text}\n{self.prefix}" if prefix else text


def _vrag(row: Row) -> Content:
    context = "\n\n".join(f"Document (Title: {c['title']}): {c['text']}" for c in row["ctxs"])
    return Content(context, "<image>" + row["question"], (row["image"],), row["answer"])


def _haystack(row: Row) -> Content:
    context = "\n".join(["<image>"] * len(row["ctxs"]))
    return Content(context, row["question"], tuple(row["ctxs"]), row["answer"])


def _paragraphs(row: Row) -> str:
    return "\n\n".join(part["text"] for part in row["ctxs"])


def _needle(row: Row) -> Content:
    return Content(_paragraphs(row), row["question"], tuple(row["image_list"]), row["answer"])


def _needle_count(row: Row) -> Content:
    images = (*row["image_list"], *row["needle_image_list"])
    return Content(_paragraphs(row), row["question"], images, row["answer"])


def _needle_choice(row: Row) -> Content:
    options = row["choices_image"]
    question = row["question"] + "".join(
        f"\n{chr(ord('A') + i)}. <image>" for i in range(len(options))
    )
    images = (*row["image_list"], *options)
    extra = {"num_options": len(options)}
    return Content(_paragraphs(row), question, images, row["answer"], extra)


def _icl(row: Row) -> Content:
    """Exemplars in an order keyed by the row; the harness draws them from one running generator."""
    rng = generator("mmlongbench", row["domain"], str(row["id"]))
    rounds = row["exemplar_list"][int(rng.integers(len(row["exemplar_list"])))]
    shown = [part[i] for part in rounds for i in rng.permutation(len(part))]
    context = "\n\n".join(f"<image>\nlabel: {each['id']}" for each in shown)
    images = (*(each["image"] for each in shown), row["image"])
    return Content(context, "<image>", images, row["answer"])


def _folder(path: str) -> str:
    return path.split("/")[-2][:15]


def _summary(row: Row) -> Content:
    pages = row["image_list"]
    context = "\n\n".join(
        f"Document {_folder(page)} (page {page.split('page')[1].split('.')[0]}): <image>"
        for page in pages
    )
    gold = row["summary"]
    if not isinstance(gold, str):
        gold = "\n\n".join(
            f"{part['section_title']}:\n" + "\n".join(part["paragraphs"]) for part in gold
        )
    return Content(context, "", tuple(pages), gold)


def _document(row: Row) -> Content:
    pages = row["page_list"]
    context = "\n\n".join(f"Document {_folder(page)}: <image>" for page in pages)
    ask = f"Based on Document {row['doc_name'][:15]}, answer the following question. "
    extra = {"answer_format": row["answer_format"]}
    return Content(context, ask + row["question"], tuple(pages), row["answer"], extra)


_TEXT, _LIST, _ANY = (str,), (list,), (str, list, int, float)
_ID = {"id": (str, int)}
_NEEDLE = {**_ID, "question": _TEXT, "ctxs": _LIST, "image_list": _LIST}
_VRAG_FIELDS = {**_ID, "question": _TEXT, "image": _TEXT, "ctxs": _LIST, "answer": (str, list)}
_HAYSTACK_FIELDS = {**_ID, "question": _TEXT, "ctxs": _LIST, "answer": (str, int)}
_TEXT_FIELDS = {**_NEEDLE, "answer": _ANY}
_COUNT_FIELDS = {**_NEEDLE, "needle_image_list": _LIST, "answer": _LIST}
_CHOICE_FIELDS = {**_NEEDLE, "choices_image": _LIST, "answer": (int,)}
_ICL_FIELDS = {**_ID, "image": _TEXT, "answer": (int,), "exemplar_list": _LIST}
_SUMMARY_FIELDS = {**_ID, "image_list": _LIST, "summary": (str, list)}
_DOCUMENT_FIELDS = {
    **_ID,
    **dict.fromkeys(("doc_name", "question", "answer_format"), _TEXT),
    "page_list": _LIST,
    "answer": _ANY,
}


def _needles(file: str, template: str, metric: str, fields: Any, content: Any) -> Task:
    return Task(f"NIAH/{file}.jsonl", template, metric, fields, content)


#: The 20 files that the authors of FOCUS name (`configs/mmlongbench_K8.yaml`), all with images.
TASKS: dict[str, Task] = {
    "infoseek": Task("vrag/infoseek_K{k}_dep3.jsonl", "vrag", "contained", _VRAG_FIELDS, _vrag,
                     cluster="image"),
    "viquae": Task("vrag/viquae_K{k}_dep6.jsonl", "vrag", "contained", _VRAG_FIELDS, _vrag,
                   cluster="image"),
    **{
        f"vh_{kind}": _needles(f"vh_{kind}_test_1000_K{{k}}_dep{depth}", "haystack", "yes_no",
                               _HAYSTACK_FIELDS, _haystack)
        for kind, depth in (("single", 6), ("multi", 3))
    },
    **{
        name: _needles(f"{name}_test_K{{k}}_dep6", "needle_choice", "letter", _CHOICE_FIELDS,
                       _needle_choice)
        for name in ("retrieval-image", "reasoning-image", "text-haystack_retrieval-image")
    },
    "counting-image": _needles("counting-image_test_K{k}_dep3", "needle", "sum", _COUNT_FIELDS,
                               _needle_count),
    "retrieval-text": _needles("retrieval-text_test_K{k}_dep6", "needle", "contained",
                               _TEXT_FIELDS, _needle),
    "reasoning-text": _needles("reasoning-text_test_K{k}_dep3", "needle", "contained",
                               _TEXT_FIELDS, _needle),
    "counting-text": _needles("counting-text_test_K{k}_dep3", "needle", "sum",
                              {**_NEEDLE, "answer": _LIST}, _needle),
    **{
        name: Task(f"ICL/{name}_K{{k}}.json", "icl", "label", _ICL_FIELDS, _icl, prefix="label:")
        for name in ("cars196", "food101", "inat2021", "sun397")
    },
    "gov-report": Task("summ/gov_K{k}.jsonl", "gov", "rouge", _SUMMARY_FIELDS, _summary,
                       prefix="Summary:"),
    "lexsum": Task("summ/lexsum_K{k}.jsonl", "lexsum", "rouge", _SUMMARY_FIELDS, _summary,
                   prefix="Summary:"),
    **{
        name: Task(f"documentQA/{name}_K{{k}}.jsonl", "document", "document", _DOCUMENT_FIELDS,
                   _document, cluster="doc_name")
        for name in ("longdocurl", "mmlongdoc", "slidevqa")
    },
}  # fmt: skip
