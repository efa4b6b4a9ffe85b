// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"

	"github.com/weirnet/weir/scenarios/mutate"
)

// socketSource has the tests that run the programs of sockets, and collectorSource
// those that run the collector's.
const (
	socketSource    = "datapath/socket_test.go"
	collectorSource = "datapath/collect_test.go"
)

var testName = regexp.MustCompile(`(?m)^func (Test\w+)\(`)

// socketTests compiles these tests into a directory. Nil, if the source or Go is
// not here.
func socketTests(ctx context.Context, dir string) (*mutate.SocketTests, error) {
	tests := &mutate.SocketTests{Binary: filepath.Join(dir, "datapath.test")}
	for _, name := range []string{socketSource, collectorSource} {
		source, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("read the tests of sockets: %w", err)
		}
		for _, m := range testName.FindAllStringSubmatch(string(source), -1) {
			tests.Names = append(tests.Names, m[1])
		}
	}
	if _, err := exec.LookPath("go"); err != nil {
		return nil, nil
	}
	said, err := exec.CommandContext(ctx, "go", "test", "-c", "-o", tests.Binary, "./datapath").CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("compile the tests of sockets: %w\n%s", err, said)
	}
	return tests, nil
}
