"""Typed wrappers of the SQL functions: the only place with SQL besides migrate."""
