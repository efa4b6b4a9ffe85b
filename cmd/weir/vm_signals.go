// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"

	"github.com/weirnet/weir/vmtest"
)

// vmPassed are the signals that a command in a guest gets as it would here.
var vmPassed = []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2}

var errInterrupted = errors.New("interrupted")

// vmInterrupted is the end of a command whose context has ended before its guest:
// by a signal, which is named once.
func vmInterrupted(ctx context.Context) error {
	if stopped := stoppedBy(ctx); stopped != nil {
		return &exitError{exitInterrupted, stopped}
	}
	return &exitError{exitInterrupted, errInterrupted}
}

// vmImpatience is after how many interrupts the guest itself is ended: whoever
// sends so many has a command that does not listen.
const vmImpatience = 3

// vmPassSignals passes signals on to the command until stop is called. The
// context that it returns is not ended by the first interrupt, which is the
// command's to answer.
func vmPassSignals(ctx context.Context, command *vmtest.Command) (_ context.Context, stop func()) {
	inner, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	caught := make(chan os.Signal, 8)
	signal.Notify(caught, vmPassed...)
	passed := make(chan syscall.Signal, 8)
	command.Signals = passed
	done := make(chan struct{})
	go func() {
		interrupts := 0
		for {
			select {
			case s := <-caught:
				if s == syscall.SIGINT || s == syscall.SIGTERM {
					interrupts++
				}
				if interrupts >= vmImpatience {
					cancel(errInterrupted)
				}
				select {
				case passed <- s.(syscall.Signal):
				case <-done:
					return
				}
			case <-done:
				return
			}
		}
	}()
	return inner, func() {
		signal.Stop(caught)
		close(done)
		cancel(nil)
	}
}
