"""What is wrong with an object, in upstream's words, one module per group of kinds. Pure. Upstream: pkg/apis/*/validation."""
