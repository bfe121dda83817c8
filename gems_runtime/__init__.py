"""gems_runtime: a kernel cache and launch runtime for Triton. It names no operator.

Modules, top to bottom; each imports only from those above it:
errors, settings, compat, device, stats, signature, launch, fingerprint, records, store, flight, bench, tuner,
entry, warm, cli. Importing the package opens no file and touches no device.
"""
