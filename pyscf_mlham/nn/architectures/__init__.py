"""Networks other than the shipped one; `nn.registry` imports each on use."""
