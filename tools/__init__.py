# SPDX-License-Identifier: Apache-2.0
"""Commands around the library. Each is a file that imports the library and no other tool."""
