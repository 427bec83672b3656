#!/bin/sh
# Starts the SuperLink; it stays until it is ended.
cd "$(dirname "$0")" && exec feddat deploy server .
