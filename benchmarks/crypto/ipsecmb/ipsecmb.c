// SPDX-License-Identifier: Apache-2.0
//
// ipsecmb MANAGER: AES-256-GCM of Intel's IPsec-MB, measured on request, for benchmarks/crypto. The managers are auto (the best
// one of this CPU), avx512, avx2, avx and sse; one that cannot run here is an error.
//
// A request is one line, "seal BYTES TIMES" or "open BYTES TIMES"; the answer "measured NANOSECONDS CYCLES" is for all the
// times together, after a short run that is not counted. CYCLES, in user mode, are 0 where the kernel does not count them. As in
// crypto/serve_linux_test.go: in place, 24 bytes of associated data before the text and the tag behind it, one-shot calls.
// Opening here does not compare the tag, which the library leaves to its caller.
//
// cc -O2 -o ipsecmb ipsecmb.c -lIPSec_MB (Debian: libipsec-mb-dev)

#define _GNU_SOURCE
#include <intel-ipsec-mb.h>
#include <linux/perf_event.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { HEADER = 24, TAG = 16, LONGEST = 1 << 17 };

static int counter = -1;

static uint64_t cycles(void) {
	uint64_t n;
	return counter >= 0 && read(counter, &n, sizeof n) == sizeof n ? n : 0;
}

static uint64_t nanoseconds(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static IMB_MGR *manager(const char *name) {
	IMB_MGR *m = alloc_mb_mgr(0);
	if (m == NULL)
		return NULL;
	uint64_t needs = 0;
	if (!strcmp(name, "auto"))
		init_mb_mgr_auto(m, NULL);
	else if (!strcmp(name, "avx512")) {
		needs = IMB_CPUFLAGS_AVX512;
		if ((m->features & needs) == needs)
			init_mb_mgr_avx512(m);
	} else if (!strcmp(name, "avx2")) {
		needs = IMB_CPUFLAGS_AVX2;
		if ((m->features & needs) == needs)
			init_mb_mgr_avx2(m);
	} else if (!strcmp(name, "avx")) {
		needs = IMB_CPUFLAGS_AVX;
		if ((m->features & needs) == needs)
			init_mb_mgr_avx(m);
	} else if (!strcmp(name, "sse")) {
		needs = IMB_CPUFLAGS_SSE;
		if ((m->features & needs) == needs)
			init_mb_mgr_sse(m);
	} else
		return NULL;
	if ((m->features & needs) != needs || imb_get_errno(m) != 0)
		return NULL;
	return m;
}

int main(int argc, char **argv) {
	IMB_MGR *m = argc == 2 ? manager(argv[1]) : NULL;
	if (m == NULL) {
		fprintf(stderr, "ipsecmb: no manager %s on this CPU\n", argc == 2 ? argv[1] : "named");
		return 1;
	}
	static const char *names[IMB_ARCH_NUM] = {
		[IMB_ARCH_NOAESNI] = "noaesni", [IMB_ARCH_SSE] = "sse", [IMB_ARCH_AVX] = "avx", [IMB_ARCH_AVX2] = "avx2", [IMB_ARCH_AVX512] = "avx512"};
	struct gcm_key_data key __attribute__((aligned(64)));
	struct gcm_context_data context;
	uint8_t secret[32] = {1, 2, 3};
	IMB_AES256_GCM_PRE(m, secret, &key);
	struct perf_event_attr attr = {.type = PERF_TYPE_HARDWARE, .size = sizeof attr, .config = PERF_COUNT_HW_CPU_CYCLES, .exclude_kernel = 1, .exclude_hv = 1};
	counter = syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0);
	uint8_t *d = aligned_alloc(64, LONGEST);
	if (d == NULL)
		return 1;
	memset(d, 7, LONGEST);
	uint8_t nonce[16] = {0}; // 12 are read
	printf("measured is %s of IPsec-MB %s\n", m->used_arch < IMB_ARCH_NUM ? names[m->used_arch] : "?", IMB_VERSION_STR);
	fflush(stdout);
	char op[8];
	uint64_t size, times;
	while (scanf("%7s %lu %lu", op, &size, &times) == 3) {
		if (size > LONGEST - HEADER - TAG)
			return 1;
		uint8_t *text = d + HEADER;
		int seal = !strcmp(op, "seal");
		uint64_t t = 0, c = 0;
		for (int measured = 0; measured < 2; measured++) {
			uint64_t n = measured ? times : times / 4 + 1;
			c = cycles();
			t = nanoseconds();
			if (seal)
				for (uint64_t i = 0; i < n; i++) {
					memcpy(nonce + 4, &i, sizeof i);
					IMB_AES256_GCM_ENC(m, &key, &context, text, text, size, nonce, d, HEADER, text + size, TAG);
				}
			else
				for (uint64_t i = 0; i < n; i++) {
					memcpy(nonce + 4, &i, sizeof i);
					IMB_AES256_GCM_DEC(m, &key, &context, text, text, size, nonce, d, HEADER, text + size, TAG);
				}
			t = nanoseconds() - t;
			c = cycles() - c;
		}
		printf("measured %lu %lu\n", t, c);
		fflush(stdout);
	}
	return 0;
}
