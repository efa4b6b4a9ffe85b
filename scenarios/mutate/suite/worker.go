// SPDX-License-Identifier: Apache-2.0

package suite

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/weirnet/weir/scenarios/mutate/planted"
	"github.com/weirnet/weir/scenarios/mutate/suite/question"
)

// patience is how long a run may say nothing: the code with an error does not
// end. It is above a worker's own limit, which what waits for a context heeds.
const patience = 40 * time.Second

// worker is a process that has the errors in it. One that ends, or hangs, has
// noticed an error, and another one is started.
type worker struct {
	path    string
	names   []string // of the plan
	cmd     *exec.Cmd
	in      io.WriteCloser
	answers chan *question.Answer
	said    *tail
}

func (w *worker) start() error {
	w.cmd = exec.Command(w.path)
	w.cmd.Env = append(os.Environ(), planted.Variable+"=-1") // with its limit of memory
	w.said = &tail{}
	w.cmd.Stderr = w.said
	var err error
	if w.in, err = w.cmd.StdinPipe(); err != nil {
		return fmt.Errorf("start worker: %w", err)
	}
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("start worker: %w", err)
	}
	if err := w.cmd.Start(); err != nil {
		return fmt.Errorf("start worker: %w", err)
	}
	w.answers = make(chan *question.Answer, 1)
	go read(out, w.answers)
	first, ok := <-w.answers
	if !ok {
		w.stop()
		return fmt.Errorf("start worker: it ends at once: %s", w.said)
	}
	w.names = first.Runs
	return nil
}

func read(out io.Reader, answers chan<- *question.Answer) {
	defer close(answers)
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<24)
	for lines.Scan() {
		a := &question.Answer{}
		if json.Unmarshal(lines.Bytes(), a) != nil {
			return
		}
		answers <- a
	}
}

// stop ends a worker that may not listen any more.
func (w *worker) stop() {
	_ = w.cmd.Process.Kill() // fails only for one that has ended
	for range w.answers {
	}
	_ = w.cmd.Wait() // killed, as asked
}

func (w *worker) close() error {
	if w.cmd == nil {
		return nil
	}
	if err := w.in.Close(); err != nil {
		return fmt.Errorf("end worker: %w", err)
	}
	for range w.answers {
	}
	if err := w.cmd.Wait(); err != nil {
		return fmt.Errorf("end worker: %w: %s", err, w.said)
	}
	return nil
}

func (w *worker) ask(ctx context.Context, q *question.Question) (*question.Answer, error) {
	if w.cmd == nil {
		if err := w.start(); err != nil {
			return nil, err
		}
	}
	line, err := json.Marshal(q)
	if err != nil {
		return nil, fmt.Errorf("ask worker: %w", err)
	}
	if _, err := w.in.Write(append(line, '\n')); err != nil {
		return nil, fmt.Errorf("ask worker: %w: %s", err, w.said)
	}
	var at *question.Run
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		select {
		case a, ok := <-w.answers:
			switch {
			case !ok && at != nil:
				w.stop()
				w.cmd = nil
				return &question.Answer{Failed: at, Why: w.said.why()}, nil
			case !ok:
				return nil, errors.New("ask worker: it has ended: " + w.said.String())
			case a.Done:
				return a, nil
			}
			at = a.Begun
			timer.Reset(patience)
		case <-timer.C:
			w.stop()
			w.cmd = nil
			if at == nil {
				return nil, errors.New("ask worker: it begins no run")
			}
			return &question.Answer{Failed: at, Why: "it does not end"}, nil
		case <-ctx.Done():
			w.stop()
			w.cmd = nil
			return nil, ctx.Err()
		}
	}
}

// tail is the beginning of what a process says, where the reason stands.
type tail struct{ bytes.Buffer }

func (t *tail) Write(b []byte) (int, error) {
	if room := 1<<16 - t.Len(); room > 0 {
		t.Buffer.Write(b[:min(room, len(b))])
	}
	return len(b), nil
}

func (t *tail) why() string {
	for line := range strings.Lines(t.String()) {
		if strings.HasPrefix(line, "panic:") || strings.HasPrefix(line, "fatal error:") {
			return strings.TrimSpace(line)
		}
	}
	return "the process ended"
}
