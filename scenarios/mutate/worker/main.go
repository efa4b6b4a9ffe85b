// SPDX-License-Identifier: Apache-2.0

// Command worker judges errors that are planted in the code that it is built
// from: it lets one act, and looks whether scenarios in world prog or sequences
// of the fuzzer fail. Package suite builds it with errors and asks it, one line
// of JSON a question.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/weirnet/weir/datapath"
	"github.com/weirnet/weir/scenarios"
	"github.com/weirnet/weir/scenarios/fuzz"
	"github.com/weirnet/weir/scenarios/mutate/planted"
	"github.com/weirnet/weir/scenarios/mutate/suite/question"
	"github.com/weirnet/weir/scenarios/syntax"
)

func main() {
	if err := serve(); err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
		os.Exit(1)
	}
}

type worker struct {
	stage *scenarios.Stage
	plan  []scenarios.Planned
	out   *json.Encoder
}

func serve() (err error) {
	all, err := scenarios.Library()
	if err != nil {
		return err
	}
	stage, err := scenarios.NewStage(datapath.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stage.Close()) }()
	w := &worker{stage, scenarios.Plan(all, syntax.Prog), json.NewEncoder(os.Stdout)}
	var names []string
	for _, p := range w.plan {
		names = append(names, p.Name())
	}
	if err := w.out.Encode(question.Answer{Runs: names}); err != nil {
		return err
	}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		var q question.Question
		if err := json.Unmarshal(lines.Bytes(), &q); err != nil {
			return fmt.Errorf("read question: %w", err)
		}
		if err := w.answer(&q); err != nil {
			return err
		}
	}
	return lines.Err()
}

func (w *worker) answer(q *question.Question) error {
	var a question.Answer
	for _, r := range q.Runs {
		if err := w.out.Encode(question.Answer{Begun: &r}); err != nil {
			return err
		}
		if q.Watch > 0 {
			planted.Watch(q.Watch)
		} else {
			planted.Choose(q.Mutant)
		}
		why := w.run(r)
		if q.Watch > 0 {
			a.Reached = planted.Reached()
		}
		planted.Choose(-1)
		if why != "" {
			a.Failed, a.Why = &r, why
			break
		}
	}
	a.Done = true
	return w.out.Encode(a)
}

// run says why a run failed; empty when it did not.
func (w *worker) run(r question.Run) (why string) {
	defer func() {
		if p := recover(); p != nil {
			why = firstLine(fmt.Sprintf("panic: %v", p))
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if r.Scenario >= 0 {
		result, whole := w.stage.Run(ctx, w.plan[r.Scenario])
		switch {
		case !whole:
			return "it does not end"
		case result.Failed():
			return "failed: " + firstLine(result.Reason)
		}
		return ""
	}
	found, err := fuzz.Play(ctx, w.stage.Pool(), &fuzz.Options{Seed: question.Seed, Uplinks: r.Uplinks}, r.Sequence)
	switch {
	case err != nil:
		return firstLine("error: " + err.Error())
	case found != nil:
		return "disagreement: " + found.Kind
	}
	return ""
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}
