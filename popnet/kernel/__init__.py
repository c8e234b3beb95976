"""Composition: loader, primary, secondary, init, namespaces, cgroups."""
