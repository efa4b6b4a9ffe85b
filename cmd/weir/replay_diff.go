// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/weirnet/weir/replay"
)

// operand is what a side of --diff is.
type operand string

const (
	operandState   operand = "state"
	operandObject  operand = "object file"
	operandResults operand = "JSON result"
)

// operandOf looks into a file.
func operandOf(path string) (operand, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("read what to compare: %w", err)
	}
	defer file.Close()
	head := make([]byte, 512)
	n, err := io.ReadFull(file, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read what to compare: %s: %w", path, err)
	}
	head = head[:n]
	switch {
	case bytes.HasPrefix(head, []byte("\x7fELF")):
		return operandObject, nil
	case bytes.HasPrefix(head, []byte(`{"n":`)), bytes.HasPrefix(head, []byte(`{"summary":`)):
		return operandResults, nil
	}
	return operandState, nil
}

func (o *replayRun) compare(cmd *cobra.Command, args []string) error {
	a, b, paths := args[0], args[1], args[2:]
	kind, err := operandOf(a)
	if err != nil {
		return err
	}
	other, err := operandOf(b)
	switch {
	case err != nil:
		return err
	case kind != other:
		return usageError(fmt.Errorf("--diff compares two of a kind, but %s looks like: %s, and %s like: %s", a, kind, b, other))
	case kind == operandResults && len(paths) > 0:
		return usageError(errors.New("--diff of results needs no captures: they are what was replayed"))
	case kind != operandResults && len(paths) == 0:
		return usageError(fmt.Errorf("--diff of a %s and another needs the captures to replay: name them behind", kind))
	case kind == operandState && o.state != "":
		return usageError(errors.New("--diff of two states goes without --state"))
	case kind == operandObject && o.object != "":
		return usageError(errors.New("--diff of two object files goes without --object"))
	}
	var d *replay.Diff
	if kind == operandResults {
		d, err = compareResults(a, b)
	} else {
		d, err = o.compareReplays(cmd, kind, a, b, paths)
	}
	if d == nil {
		return explainReplay(err)
	}
	clearProgress()
	if err := errors.Join(stoppedAfter(err, d.Packets), o.tellDiff(cmd.OutOrStdout(), d)); err != nil {
		return err
	}
	if o.exitCode && d.Changed > 0 {
		return &exitError{code: exitFailed}
	}
	return nil
}

func compareResults(a, b string) (*replay.Diff, error) {
	before, err := os.Open(a)
	if err != nil {
		return nil, fmt.Errorf("read results: %w", err)
	}
	defer before.Close()
	after, err := os.Open(b)
	if err != nil {
		return nil, fmt.Errorf("read results: %w", err)
	}
	defer after.Close()
	return replay.CompareResults(before, after)
}

func (o *replayRun) compareReplays(cmd *cobra.Command, kind operand, a, b string, paths []string) (d *replay.Diff, err error) {
	sides := make([]replay.Options, 2)
	for i, path := range []string{a, b} {
		side := *o
		if kind == operandState {
			side.state = path
		} else {
			side.object = path
		}
		if sides[i], err = side.options(cmd); err != nil {
			return nil, err
		}
	}
	if away, err := o.guest.runs(cmd, o.errand(paths, a, b, o.state, o.object)); away || err != nil {
		return nil, err
	}
	err = replay.WithNetwork(cmd.Context(), func(n *replay.Network) (err error) {
		captures := o.captures(paths)
		if captures.Filter, err = o.filter.compile(cmd.Context()); err != nil {
			return err
		}
		d, err = replay.Compare(cmd.Context(), n, captures, sides[0], sides[1])
		if captures.Streams() && stoppedBy(cmd.Context()) != nil {
			err = nil // which is how a pipe ends
		}
		return err
	})
	return d, err
}

// tellDiff prints what changed by flow, and then how much.
func (o *replayRun) tellDiff(out io.Writer, d *replay.Diff) error {
	if o.output == "json" {
		e := json.NewEncoder(out)
		for _, c := range d.Flows {
			if err := e.Encode(c); err != nil {
				return fmt.Errorf("write changes: %w", err)
			}
		}
		return e.Encode(map[string]map[string]int{"summary": {
			"packets": d.Packets, "changed": d.Changed, "flows": len(d.Flows), "more": d.More, "dead_before": d.DeadBefore, "dead_after": d.DeadAfter}})
	}
	for _, c := range d.Flows {
		dead := ""
		if c.Dead {
			dead = "; the connection would be dead"
		}
		fmt.Fprintf(out, "%s: %d packets changed, the first is %d%s\n", c.Flow(), c.Packets, c.First, dead)
		for _, k := range c.Kinds {
			fmt.Fprintf(out, "  %6d  %s  ->  %s\n", k.Packets, k.Before, k.After)
		}
	}
	if d.More > 0 {
		fmt.Fprintf(out, "and %d packets of other flows\n", d.More)
	}
	_, err := fmt.Fprintf(out, "%d of %d packets changed, in %d flows; %d connections dead before, %d after\n", d.Changed, d.Packets, len(d.Flows), d.DeadBefore, d.DeadAfter)
	return err
}
