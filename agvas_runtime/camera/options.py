"""Options of every `agvas-camera` command: what is asked about a part."""

from typing import Annotated

import typer

LARGEST = 2**32 - 1
"""What the protocol has room for."""

RecipeNameOption = Annotated[str | None, typer.Option("--recipe", help="One of the server's recipes.")]
InstructionOption = Annotated[str | None, typer.Option(help="What to look for; the recipe's, or the bundle's own.")]
MinAreaOption = Annotated[
    int | None,
    typer.Option(min=1, max=LARGEST, help="Smallest region that counts as a defect, in pixels; the recipe's, or 1."),
]
MinScoreOption = Annotated[
    float | None, typer.Option(min=0, max=1, help="Lowest mean score of such a region; the recipe's, or 0.")
]
