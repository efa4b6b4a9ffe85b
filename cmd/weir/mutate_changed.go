// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
)

type lineRange struct{ first, last int }

var hunk = regexp.MustCompile(`^@@ -\S+ \+(\d+)(?:,(\d+))? @@`)

// changedLines asks git which lines of the files below a directory differ from a
// revision. Files are named from there.
func changedLines(ctx context.Context, revision, dir string, files ...string) (func(file string, line int) bool, error) {
	if _, err := os.Stat(dir); err != nil {
		return nil, usageError(fmt.Errorf("--changed %s: look for the source in %s: %w: run it at the root of a checkout", revision, dir, err))
	}
	var problem bytes.Buffer
	cmd := exec.CommandContext(ctx, "git", append([]string{"diff", "-U0", "--relative", "--no-color", "--no-ext-diff", revision, "--"}, files...)...)
	cmd.Dir, cmd.Stderr = dir, &problem
	out, err := cmd.Output()
	if err != nil {
		return nil, usageError(fmt.Errorf("--changed %s: ask git for the changed lines: %w: %s", revision, err, strings.TrimSpace(problem.String())))
	}
	return readDiff(string(out)), nil
}

// readDiff reads a diff without context.
func readDiff(diff string) func(file string, line int) bool {
	changed := map[string][]lineRange{}
	file := ""
	for line := range strings.Lines(diff) {
		if name, ok := strings.CutPrefix(line, "+++ b/"); ok {
			file = strings.TrimSpace(name)
			continue
		}
		if m := hunk.FindStringSubmatch(line); m != nil {
			first, _ := strconv.Atoi(m[1])
			n := 1
			if m[2] != "" {
				n, _ = strconv.Atoi(m[2])
			}
			changed[file] = append(changed[file], lineRange{first, first + n - 1})
		}
	}
	return func(file string, line int) bool {
		for _, r := range changed[file] {
			if r.first <= line && line <= r.last {
				return true
			}
		}
		return false
	}
}
