// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

// stoppedError is that a signal has ended the work.
type stoppedError struct{ signal syscall.Signal }

func (e *stoppedError) Error() string { return fmt.Sprintf("stopped by a signal (%s)", e.signal) }

// Is makes it what ends a context.
func (e *stoppedError) Is(target error) bool { return target == context.Canceled }

// untilSignal gives a context that the first signal ends, with a stoppedError
// as its cause, so that the work can be cleaned up. A second one kills.
func untilSignal(parent context.Context) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		select {
		case s := <-caught:
			signal.Stop(caught)
			cancel(&stoppedError{s.(syscall.Signal)})
		case <-ctx.Done():
			signal.Stop(caught)
		}
	}()
	return ctx, func() { cancel(nil) }
}

// stoppedBy is the signal that has ended a context; nil where none has.
func stoppedBy(ctx context.Context) *stoppedError {
	stopped, _ := errors.AsType[*stoppedError](context.Cause(ctx))
	return stopped
}

// tellSignal makes the error of a command that a signal has stopped say so,
// and its exit status what a shell's would be: 130 for an interrupt. An exit
// status that the command has chosen stays.
func tellSignal(ctx context.Context, err error) error {
	stopped := stoppedBy(ctx)
	if err == nil || stopped == nil {
		return err
	}
	code := 128 + int(stopped.signal)
	if exit, ok := errors.AsType[*exitError](err); ok {
		if code = exit.code; exit.err == nil {
			return err
		}
	}
	if _, told := errors.AsType[*stoppedError](err); told {
		return &exitError{code, err}
	}
	if !errors.Is(err, context.Canceled) {
		return &exitError{code, errors.Join(err, stopped)}
	}
	// Whoever has asked the context for its error and not for its cause.
	text := strings.ReplaceAll(err.Error(), context.Canceled.Error(), stopped.Error())
	return &exitError{code, errors.New(text)}
}
