#!/bin/sh
# Connects to the server and works for it; stays until it is ended.
cd "$(dirname "$0")" && exec feddat deploy client .
