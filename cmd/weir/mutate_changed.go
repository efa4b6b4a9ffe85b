// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
)

type lineRange struct{ first, last int }

var hunk = regexp.MustCompile(`^@@ -\S+ \+(\d+)(?:,(\d+))? @@`)

// changedLines asks git which lines of bpf/ differ from a revision.
func changedLines(ctx context.Context, revision string) (func(file string, line int) bool, error) {
	var problem bytes.Buffer
	cmd := exec.CommandContext(ctx, "git", "diff", "-U0", "--relative=bpf", "--no-color", "--no-ext-diff", revision, "--", "*.c", "*.h")
	cmd.Dir, cmd.Stderr = "bpf", &problem
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
