/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "bundle_file.h"

#include <ctype.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "crc32c.h"
#include "host.h"
#include "sha256.h"

/* Of Linux; the oldest C library that we are built for has no names for them. */
#define COPY_FLAGS 3u /* MFD_CLOEXEC, MFD_ALLOW_SEALING */
#define COPY_RUNS 16u /* MFD_EXEC, since Linux 6.3 */
#define ADD_SEALS 1033
#define ALL_SEALS 15 /* against growing, shrinking, writing, and other seals */

#define BUFFER (6 * SIRIUS_CRC_BLOCK) /* stays in the second-level cache */
#define PAGE 4096
#define MOST_SEGMENTS 64
#define MOST_TAGS 64
#define MOST_TABLE (1 << 28) /* bytes of relocations */

/* What a bundle's file ends with (bundle/seal.py). The checksum is of all bytes before it. */
typedef struct {
  char mark[16];
  int64_t bytes; /* of the file */
  uint32_t zero, checksum;
} Seal;
static const char seal_mark[16] = "sirius sealed";

typedef struct {
  int file;
  int64_t bytes;
  char *error;
  size_t error_bytes;
} Reader;

__attribute__((format(printf, 3, 4))) static int32_t fail(const Reader *r, int32_t code, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(r->error, r->error_bytes, format, arguments);
  va_end(arguments);
  return code;
}

static int32_t fetch(const Reader *r, int64_t offset, void *data, size_t bytes) {
  for (char *at = data; bytes;) {
    const ssize_t got = pread(r->file, at, bytes, offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return fail(r, SIRIUS_DAMAGED, "cannot be read: %m");
    if (got == 0) return fail(r, SIRIUS_DAMAGED, "became shorter while it was read");
    at += got;
    offset += got;
    bytes -= (size_t)got;
  }
  return SIRIUS_OK;
}

/* ---- the bytes ---- */

typedef void (*Part)(void *state, const char *data, size_t bytes);

/* Hands over the first bytes of the file. Read, not mapped: a file that becomes shorter meanwhile is an error then, and no
 * signal. */
static int32_t each_part(const Reader *r, int64_t end, Part part, void *state) {
  char *buffer = malloc(BUFFER);
  if (!buffer) return fail(r, SIRIUS_EXHAUSTED, "out of memory");
  int32_t code = SIRIUS_OK;
  for (int64_t at = 0; at < end && code == SIRIUS_OK; at += BUFFER) {
    const size_t bytes = end - at < BUFFER ? (size_t)(end - at) : BUFFER;
    code = fetch(r, at, buffer, bytes);
    if (code == SIRIUS_OK) part(state, buffer, bytes);
  }
  free(buffer);
  return code;
}

static void sum_part(void *checksum, const char *data, size_t bytes) {
  *(uint32_t *)checksum = sirius_crc32c(*(uint32_t *)checksum, data, bytes);
}

static void hash_part(void *sha, const char *data, size_t bytes) { sirius_sha256_add(sha, data, bytes); }

/* With SIRIUS_TRUSTED, SHA-256 of the file must be in that list: what sha256sum(1) writes. */
static int32_t check_trust(const Reader *r) {
  const char *path = getenv("SIRIUS_TRUSTED");
  if (!path || !*path) return SIRIUS_OK;
  SiriusSha256 sha;
  char hex[SIRIUS_SHA256_DIGITS + 1];
  sirius_sha256_begin(&sha);
  const int32_t code = each_part(r, r->bytes, hash_part, &sha);
  if (code != SIRIUS_OK) return code;
  sirius_sha256_end(&sha, hex);
  FILE *list = fopen(path, "re");
  if (!list) return fail(r, SIRIUS_STALE, "is not loaded: SIRIUS_TRUSTED names %s, which cannot be read (%m)", path);
  char *line = NULL;
  size_t room = 0;
  int found = 0;
  while (!found && getline(&line, &room, list) >= 0)
    found = strncasecmp(line, hex, SIRIUS_SHA256_DIGITS) == 0 && !isxdigit((unsigned char)line[SIRIUS_SHA256_DIGITS]);
  free(line);
  fclose(list);
  return found ? SIRIUS_OK : fail(r, SIRIUS_STALE, "is not loaded: its SHA-256 %s is not in %s (SIRIUS_TRUSTED)", hex, path);
}

static int32_t check_seal(const Reader *r) {
  Seal seal = {0};
  if (r->bytes >= (int64_t)sizeof seal) {
    const int32_t code = fetch(r, r->bytes - (int64_t)sizeof seal, &seal, sizeof seal);
    if (code != SIRIUS_OK) return code;
  }
  if (memcmp(seal.mark, seal_mark, sizeof seal_mark) != 0 || seal.bytes != r->bytes)
    return fail(r, SIRIUS_DAMAGED,
                "is cut short or damaged, or not a bundle of this version of sirius_tf: restore it, or convert the model again");
  uint32_t checksum = 0;
  const int32_t code = each_part(r, r->bytes - (int64_t)sizeof checksum, sum_part, &checksum);
  if (code == SIRIUS_OK && checksum != seal.checksum)
    return fail(r, SIRIUS_DAMAGED, "is damaged: its checksum is %08x, not %08x; restore it, or convert the model again",
                checksum, seal.checksum);
  return code;
}

/* ---- the object ---- */

static int inside(uint64_t offset, uint64_t bytes, uint64_t all) { return offset <= all && bytes <= all - offset; }

static int known_segment(uint32_t type) {
  switch (type) {
    case PT_NULL: case PT_LOAD: case PT_DYNAMIC: case PT_NOTE: case PT_PHDR: return 1;
    case PT_GNU_EH_FRAME: case PT_GNU_STACK: case PT_GNU_RELRO: case PT_GNU_PROPERTY: return 1;
    default: return 0;
  }
}

/* Nothing that names other objects, or code to run when this one is loaded. */
static int known_tag(int64_t tag) {
  switch (tag) {
    case DT_SONAME: case DT_STRTAB: case DT_STRSZ: case DT_SYMTAB: case DT_SYMENT: case DT_HASH: case DT_GNU_HASH: return 1;
    case DT_RELA: case DT_RELASZ: case DT_RELAENT: case DT_RELACOUNT: case DT_FLAGS: case DT_FLAGS_1: return 1;
    default: return 0;
  }
}

/* The segment that has so many bytes of the file at an address in memory, or NULL. */
static const Elf64_Phdr *segment_at(const Elf64_Phdr *segments, int n, uint64_t address, uint64_t bytes) {
  for (const Elf64_Phdr *s = segments; s < segments + n; ++s)
    if (s->p_type == PT_LOAD && address >= s->p_vaddr && inside(address - s->p_vaddr, bytes, s->p_filesz)) return s;
  return NULL;
}

/* In memory, segments do not share pages: what is at an address is what the file has there. */
static int32_t check_segments(const Reader *r, const Elf64_Phdr *segments, int n) {
  uint64_t end = 0;
  for (const Elf64_Phdr *s = segments; s < segments + n; ++s) {
    if (!known_segment(s->p_type)) return fail(r, SIRIUS_DAMAGED, "has a segment of type %#x", s->p_type);
    if (!inside(s->p_offset, s->p_filesz, (uint64_t)r->bytes) || s->p_filesz > s->p_memsz ||
        !inside(s->p_vaddr, s->p_memsz, INT64_MAX - PAGE))
      return fail(r, SIRIUS_DAMAGED, "has a segment that is not inside of it");
    const uint32_t both = PF_W | PF_X;
    if ((s->p_type == PT_LOAD && (s->p_flags & both) == both) || (s->p_type == PT_GNU_STACK && s->p_flags & PF_X))
      return fail(r, SIRIUS_DAMAGED, "has code that may be written");
    if (s->p_type != PT_LOAD) continue;
    if (s->p_vaddr / PAGE * PAGE < end) return fail(r, SIRIUS_DAMAGED, "has segments that overlap");
    end = (s->p_vaddr + s->p_memsz + PAGE - 1) / PAGE * PAGE;
  }
  return SIRIUS_OK;
}

static int32_t check_relocations(const Reader *r, const Elf64_Phdr *segments, int n, uint64_t address, uint64_t bytes) {
  if (bytes == 0) return SIRIUS_OK;
  const Elf64_Phdr *home = segment_at(segments, n, address, bytes);
  if (!home || bytes > MOST_TABLE)
    return fail(r, SIRIUS_DAMAGED, "has relocations that are not inside of it");
  Elf64_Rela *table = malloc(bytes);
  if (!table) return fail(r, SIRIUS_EXHAUSTED, "out of memory");
  int32_t code = fetch(r, (int64_t)(home->p_offset + (address - home->p_vaddr)), table, bytes);
  for (uint64_t i = 0; i < bytes / sizeof *table && code == SIRIUS_OK; ++i) {
    const Elf64_Phdr *place = segment_at(segments, n, table[i].r_offset, sizeof(uint64_t));
    if (table[i].r_info != R_X86_64_RELATIVE || !place || !(place->p_flags & PF_W))
      code = fail(r, SIRIUS_DAMAGED, "has a relocation that no bundle needs");
  }
  free(table);
  return code;
}

static int32_t check_dynamic(const Reader *r, const Elf64_Phdr *segments, int n, const Elf64_Phdr *dynamic) {
  Elf64_Dyn entries[MOST_TAGS + 1] = {0}; /* ends with DT_NULL */
  const Elf64_Phdr *home = segment_at(segments, n, dynamic->p_vaddr, dynamic->p_filesz);
  if (!home || home->p_offset + (dynamic->p_vaddr - home->p_vaddr) != dynamic->p_offset ||
      dynamic->p_filesz > MOST_TAGS * sizeof *entries)
    return fail(r, SIRIUS_DAMAGED, "has a dynamic section that no bundle needs");
  const int32_t code = fetch(r, (int64_t)dynamic->p_offset, entries, dynamic->p_filesz);
  if (code != SIRIUS_OK) return code;
  uint64_t address = 0, bytes = 0;
  const Elf64_Dyn *e = entries;
  for (; e->d_tag != DT_NULL; ++e) {
    if (!known_tag(e->d_tag))
      return fail(r, SIRIUS_DAMAGED, "is no bundle: loading it would run code, or load other objects (dynamic tag %#llx)",
                  (unsigned long long)e->d_tag);
    if (e->d_tag == DT_RELA) address = e->d_un.d_ptr;
    if (e->d_tag == DT_RELASZ) bytes = e->d_un.d_val;
  }
  if ((uint64_t)(e - entries) >= dynamic->p_filesz / sizeof *e)
    return fail(r, SIRIUS_DAMAGED, "has a dynamic section without an end");
  return check_relocations(r, segments, n, address, bytes);
}

static int32_t check_object(const Reader *r) {
  Elf64_Ehdr header;
  Elf64_Phdr segments[MOST_SEGMENTS];
  static const unsigned char ident[] = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT};
  if (r->bytes < (int64_t)sizeof header) return fail(r, SIRIUS_DAMAGED, "is no shared object");
  int32_t code = fetch(r, 0, &header, sizeof header);
  if (code != SIRIUS_OK) return code;
  const int n = header.e_phnum;
  if (memcmp(header.e_ident, ident, sizeof ident) != 0 || header.e_type != ET_DYN || header.e_machine != EM_X86_64 ||
      header.e_phentsize != sizeof *segments || n > MOST_SEGMENTS ||
      !inside(header.e_phoff, (uint64_t)n * sizeof *segments, (uint64_t)r->bytes))
    return fail(r, SIRIUS_DAMAGED, "is no shared object for x86-64");
  code = fetch(r, (int64_t)header.e_phoff, segments, (size_t)n * sizeof *segments);
  if (code == SIRIUS_OK) code = check_segments(r, segments, n);
  for (int k = 0; k < n && code == SIRIUS_OK; ++k)
    if (segments[k].p_type == PT_DYNAMIC) code = check_dynamic(r, segments, n, &segments[k]);
  return code;
}

int32_t sirius_check_file(int file, char *error, size_t error_bytes) {
  Reader r = {file, 0, error, error_bytes};
  struct stat info;
  if (fstat(file, &info) != 0) return fail(&r, SIRIUS_INTERNAL, "%m");
  if (!S_ISREG(info.st_mode)) return fail(&r, SIRIUS_DAMAGED, "is not a file");
  r.bytes = info.st_size;
  int32_t code = check_seal(&r);
  if (code == SIRIUS_OK) code = check_object(&r);
  return code == SIRIUS_OK ? check_trust(&r) : code;
}

int sirius_wants_copy(void) {
  const char *copy = getenv("SIRIUS_BUNDLE_COPY"), *trusted = getenv("SIRIUS_TRUSTED");
  return (copy && strcmp(copy, "1") == 0) || (trusted && *trusted);
}

int sirius_copy_file(int file) {
  int copy = (int)syscall(SYS_memfd_create, "sirius_bundle", COPY_FLAGS | COPY_RUNS);
  if (copy < 0) copy = (int)syscall(SYS_memfd_create, "sirius_bundle", COPY_FLAGS);
  if (copy < 0) return -1;
  ssize_t got;
  do {
    got = sendfile(copy, file, NULL, 1 << 30);
  } while (got > 0 || (got < 0 && errno == EINTR));
  if (got == 0 && fcntl(copy, ADD_SEALS, ALL_SEALS) == 0) return copy;
  close(copy);
  return -1;
}
