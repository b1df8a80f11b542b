/* SPDX-License-Identifier: Apache-2.0
 *
 * The file of a bundle, looked at before it is mapped: its bytes are those that were written, and loading them runs none.
 */
#ifndef SIRIUS_BUNDLE_FILE_H
#define SIRIUS_BUNDLE_FILE_H
#include <stddef.h>
#include <stdint.h>

/* SIRIUS_OK, or another code and what is wrong with the file behind a descriptor. */
int32_t sirius_check_file(int file, char *error, size_t error_bytes);

/* Whether bundles are to be copied: SIRIUS_BUNDLE_COPY=1, or SIRIUS_TRUSTED, in the environment. */
int sirius_wants_copy(void);

/* A descriptor of a copy of the file in memory, which nobody can change any more; -1 and errno if there is none. */
int sirius_copy_file(int file);

#endif
