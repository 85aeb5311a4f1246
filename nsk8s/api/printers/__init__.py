"""The columns and cells of `kubectl get`, one module per group of kinds. Pure. Upstream: pkg/printers/internalversion."""
