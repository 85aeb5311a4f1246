"""What the API server fills in, one module per group of kinds. Pure. Upstream: pkg/apis/*/v1/defaults.go."""
