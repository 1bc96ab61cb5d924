"""Token Refiner: two linear layers from the language model's anchor states to the mask decoder (section B.4)."""

from __future__ import annotations

from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "identity": nn.Identity}


class TokenRefiner(nn.Module):
    """Maps anchor states [..., d] to anchor embeddings h [..., out_dim]."""

    def __init__(self, *, embed_dim: int, out_dim: int, activation: str = "relu") -> None:
        super().__init__()
        self.lin1 = nn.Linear(embed_dim, embed_dim)
        self.act = ACTIVATIONS[activation]()
        self.lin2 = nn.Linear(embed_dim, out_dim)

    def forward(self, states: Tensor) -> Tensor:
        """States [B, A, d] give h [B, A, out_dim]."""
        return self.lin2(self.act(self.lin1(states)))
