"""Networks beside the one that ships; each is imported when `nn.registry` is asked for it."""
