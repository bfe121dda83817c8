"""The demonstration: a small Llama model warmed with gems-cache and run on this project's kernels."""
