// SPDX-License-Identifier: Apache-2.0

// Command weir is the command line of the Weir datapath and of its lab.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"
)

// Exit codes of every command, for scripts.
const (
	exitOK     = 0 // everything passed
	exitFailed = 1 // something failed
	exitUsage  = 2 // the command line is wrong
)

// exitError ends the process with its code. Its error, if any, has not been
// printed yet.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit status %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

// usageError makes err end the process with exitUsage.
func usageError(err error) error { return &exitError{exitUsage, err} }

func main() {
	if isPlugin() {
		runPlugin()
		return
	}
	ctx, stop := untilSignal(context.Background())
	err := tellSignal(ctx, rootCommand().ExecuteContext(ctx))
	stop()
	os.Exit(exitCode(err))
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:           "weir",
		Short:         "An eBPF network datapath for containers, and the lab that proves it",
		Version:       thisBuild().Version, // makes the flag --version
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetVersionTemplate(thisBuild().String() + "\n")
	root.SetFlagErrorFunc(wrongFlag)
	narrow(root)
	root.AddCommand(commands()...)
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	strict(root)
	complete(root)
	return root
}

func exitCode(err error) int {
	if err == nil {
		return exitOK
	}
	code := exitFailed
	exit, ok := errors.AsType[*exitError](err)
	if ok {
		code = exit.code
	}
	if !ok || exit.err != nil {
		tellError(os.Stderr, err)
	}
	return code
}

// tellError is how every command tells of an error.
func tellError(out io.Writer, err error) { fmt.Fprintln(out, "weir:", plainly(err)) }

// plainly tells an error without the words of package context: what ended the work is
// told where it is known, by tellSignal or by whoever set the time.
func plainly(err error) string {
	return strings.NewReplacer(
		context.DeadlineExceeded.Error(), "no answer in time",
		context.Canceled.Error(), "stopped before its end",
	).Replace(err.Error())
}
