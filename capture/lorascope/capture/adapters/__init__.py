"""Adapters: attaching them, refusing those that can't be measured, and finding the layers that they change."""
