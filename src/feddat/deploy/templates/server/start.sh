#!/bin/sh
# Starts the SuperLink, which runs until you stop it.
cd "$(dirname "$0")" && exec feddat deploy server .
