// SPDX-License-Identifier: Apache-2.0

package source

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Overlay is the code with its errors, as files beside the tree.
type Overlay struct {
	code    *Code
	dir     string
	dropped map[*Mutant]bool
}

// NewOverlay writes into dir.
func (c *Code) NewOverlay(dir string) (*Overlay, error) {
	o := &Overlay{code: c, dir: dir, dropped: map[*Mutant]bool{}}
	return o, o.write()
}

// Dropped says whether the compiler takes no code with the error of a number.
func (o *Overlay) Dropped(number int) bool {
	for m := range o.dropped {
		if m.Number == number {
			return true
		}
	}
	return false
}

func (o *Overlay) path() string { return filepath.Join(o.dir, "overlay.json") }

func (o *Overlay) write() error {
	replace := map[string]string{}
	for n, f := range o.code.files {
		if len(f.mutants) == 0 {
			continue
		}
		path := filepath.Join(o.dir, fmt.Sprintf("%d-%s", n, filepath.Base(f.path)))
		if err := os.WriteFile(path, []byte(f.render(o.code.Module, o.dropped)), 0o644); err != nil {
			return fmt.Errorf("write code with errors: %w", err)
		}
		replace[f.path] = path
	}
	text, err := json.Marshal(struct{ Replace map[string]string }{replace})
	if err == nil {
		err = os.WriteFile(o.path(), text, 0o644)
	}
	if err != nil {
		return fmt.Errorf("write overlay: %w", err)
	}
	return nil
}

// rounds are how often errors are taken out that the compiler refuses.
const rounds = 8

// Check compiles the code, and drops the errors that the compiler refuses: of
// those that are on the line that it complains of, all.
func (o *Overlay) Check(ctx context.Context) error {
	for range rounds {
		out, err := o.Go(ctx, append([]string{"build", "-gcflags=-e"}, o.code.Packages...)...)
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !o.drop(out) {
			return fmt.Errorf("compile code with errors: %w:\n%s", err, out)
		}
		if err := o.write(); err != nil {
			return err
		}
	}
	return errors.New("compile code with errors: the compiler refuses it however many are taken out")
}

var complaint = regexp.MustCompile(`(?m)^([^\s:]+\.go):(\d+):`)

func (o *Overlay) drop(out string) bool {
	dropped := false
	for _, match := range complaint.FindAllStringSubmatch(out, -1) {
		line, _ := strconv.Atoi(match[2])
		for n, f := range o.code.files {
			written := fmt.Sprintf("%d-%s", n, filepath.Base(f.path))
			if filepath.Base(match[1]) != written && !strings.HasSuffix(f.path, strings.TrimPrefix(match[1], ".")) {
				continue
			}
			for _, i := range f.inserts {
				if at := 1 + bytes.Count(f.src[:i.at], []byte("\n")); at != line {
					continue
				}
				for _, m := range i.of {
					dropped = dropped || !o.dropped[m]
					o.dropped[m] = true
				}
			}
		}
	}
	return dropped
}

// Go runs the go command with the overlay in the module's root.
func (o *Overlay) Go(ctx context.Context, args ...string) (string, error) {
	args = slices.Insert(slices.Clone(args), 1, "-overlay", o.path())
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Dir = o.code.Root
	out, err := cmd.CombinedOutput()
	return string(out), err
}
