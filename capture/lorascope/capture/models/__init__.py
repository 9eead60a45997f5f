"""Models and their adapters: loading and identifying them, refusing what can't be measured, finding adapted layers."""
