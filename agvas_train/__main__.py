"""`python -m agvas_train` is `agvas-train`: what torchrun and accelerate launch need."""

from agvas_train.cli import main

main()
