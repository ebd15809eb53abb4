// SPDX-License-Identifier: Apache-2.0

// Command gcmasm writes the assembly of AES-256-GCM: crypto/gcm_amd64.s, and
// the Go declarations to it, crypto/gcm_stub_amd64.go. make generate runs it.
//
// There are two kernels, one text: with vectors of 2 blocks (VAES, VPCLMULQDQ
// and AVX2) and of 4 (AVX-512). What differs is in machine.go; the shape of a
// message is in message.go.
package main

import (
	"bytes"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/pass"
	"github.com/mmcloughlin/avo/printer"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: gcmasm DIRECTORY")
	}
	context := build.NewContext()
	context.Package("github.com/ntap-project/ntap/crypto") // for its type gcmKey
	g := &generator{Context: context}
	g.constants()
	g.initKey()
	for _, m := range []*machine{g.avx2(), g.avx512()} {
		m.function(true)
		m.function(false)
	}
	f, err := context.Result()
	if list, ok := err.(build.ErrorList); ok {
		for _, e := range list {
			log.Print(e)
		}
	}
	if err != nil {
		log.Fatal(err)
	}
	if err := pass.Compile.Execute(f); err != nil {
		log.Fatal(err)
	}
	cfg := printer.Config{Argv: []string{"go", "run", "./crypto/gcmasm", "crypto"}, Name: "gcmasm", Pkg: "crypto"}
	for name, p := range map[string]printer.Printer{
		"gcm_amd64.s":       printer.NewGoAsm(cfg),
		"gcm_stub_amd64.go": printer.NewStubs(cfg),
	} {
		text, err := p.Print(f)
		if err != nil {
			log.Fatal(err)
		}
		text = append([]byte("// SPDX-License-Identifier: Apache-2.0\n\n"), bytes.TrimSpace(text)...)
		if err := os.WriteFile(filepath.Join(os.Args[1], name), append(text, '\n'), 0o644); err != nil {
			log.Fatal(fmt.Errorf("gcmasm: %w", err))
		}
	}
}
