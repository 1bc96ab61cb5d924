"""What the annotator is told: the paper's system prompt, and our words around the three pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

SYSTEM_PROMPT = """\
You are an expert in industrial defect analysis.

You will be shown three images:

- **Image A** (the original image): It has a green bounding box overlaid to indicate the defect location; this bounding box fully contain the defects and is only for rough localization, not part of the scene itself.
- **Image B** (a reference ground-truth image): It has green regions that fully cover all defect areas of the original image with pixel-level precision.
- **Image C** (a reference normal image): It is a normal image of the same category as the original image A.

You may use Image B and Image C to understand what defective and normal regions look like, but your final reasoning must only describe what is visually different in Image A.

You must produce a **machine-readable JSON block**, enclosed between `<RESPONSE_JSON>` and `</RESPONSE_JSON>`. The JSON must have the following schema:

```
{
  "exists": true|false,           // whether a defect is present
  "Expectation": "<string>",      // normal appearance (short)
  "Observation": "<string>",      // observed difference (short)
  "Diagnosis": "<string>",        // why it is defective (short)
  "Summary": "<string>",         // concise location & appearance (must include [NOR][ANO][SEG])
  "Explanation": "<string>"     // natural-language summary combining Expectation, Observation, Diagnosis, Summary
}
```

Rules and constraints:

- JSON must be syntactically valid (double quotes, no trailing commas).
- Keep each field concise (1-3 sentences).
- **Observation must describe at least TWO visual cues (choose from: location relative to the object, color/brightness contrast, shape, size, texture, or difference from normal).**
- **Diagnosis must explain why those visual cues indicate a defect (e.g., breaks texture/uniformity, implies material loss, suggests foreign object).**
- Do not mention or refer to the bounding box, green mask, Image B, Image C, or image identifiers (e.g., "Image A", "Image B", "Image C").
- Do not use wording such as "green box", "ground truth", "mask", "annotation", "normal image", or "reference image".
- Output **only** the JSON block, nothing else.

Example output format:

```
<RESPONSE_JSON>
{
  "exists": true,
  "Expectation": "The orange terminal block should have a smooth and uniform surface.",
  "Observation": "A small dark pit appears on the right side near the edge, breaking the texture.",
  "Diagnosis": "This irregular depression indicates a surface defect.",
  "Summary": "The defect is a small dark pit located on the right side of the orange terminal block near the edge, as indicated by [NOR][ANO][SEG].",
  "Explanation": "Normally, the orange terminal block should have a smooth and uniform surface. However, a small, dark pit appears on the right side near the edge, breaking the texture. Therefore, this irregular depression indicates a surface defect. In conclusion, the defect is a small dark pit located on the right side of the orange terminal block near the edge."
}
</RESPONSE_JSON>
```"""  # noqa: E501
"""Figure A.5, verbatim, without the quotes of the string that it is shown as."""

PICTURE_NAMES = ("Image A:", "Image B:", "Image C:")
NORMAL_NOTE = (
    'Image A shows no defect: it has no box, and Image B has no green region. Answer with "exists": false, say in '
    "Observation and in Diagnosis why it looks as it should, and leave [NOR][ANO][SEG] out of every field."
)
"""Ours: Figure A.5 says nothing of an image without a defect but that `exists` may be false."""
ASK_AGAIN = "Your answer cannot be used: {faults}. Answer again with the whole JSON block, mended, and nothing else."
"""Ours."""

Message = dict[str, Any]

PROMPT_HASH = hashlib.sha256("\n".join((SYSTEM_PROMPT, *PICTURE_NAMES, NORMAL_NOTE, ASK_AGAIN)).encode()).hexdigest()[
    :16
]
"""Stands in every record: which words it was asked for with."""


def first_ask(pictures: Sequence[str], anomalous: bool) -> list[Message]:
    """The messages of a chat completion that ask about an image.

    Args:
        pictures: images A, B and C as data URIs.
        anomalous: whether the image has a defect.
    """
    content: list[Message] = []
    for name, picture in zip(PICTURE_NAMES, pictures, strict=True):
        content += [{"type": "text", "text": name}, {"type": "image_url", "image_url": {"url": picture}}]
    if not anomalous:
        content.append({"type": "text", "text": NORMAL_NOTE})
    return [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": content}]


def second_ask(messages: list[Message], answer: str, faults: Sequence[str]) -> list[Message]:
    """The same conversation with the answer it got and what is wrong with that."""
    again = ASK_AGAIN.format(faults="; ".join(faults))
    return [*messages, {"role": "assistant", "content": answer}, {"role": "user", "content": again}]
