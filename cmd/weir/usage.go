// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weirnet/weir/agent/install"
)

// columns is how wide help is: what the narrowest usual terminal shows.
const columns = 80

// strict makes every command of a tree refuse arguments that it would not look
// at, as wrong usage, and a group of commands say what it has.
func strict(cmd *cobra.Command) {
	if !cmd.Runnable() && cmd.HasSubCommands() {
		cmd.Args = cobra.NoArgs
		cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	}
	if cmd.Name() == "help" && cmd.Parent() == cmd.Root() {
		cmd.Args = isCommand
	}
	if accept := cmd.Args; accept != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			err := accept(cmd, args)
			var exit *exitError
			if err == nil || errors.As(err, &exit) {
				return err
			}
			if cmd.HasSubCommands() && len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return wrongUsage(cmd, err)
		}
	}
	for _, sub := range cmd.Commands() {
		strict(sub)
	}
}

// atLeastOne asks for what a command cannot do without.
func atLeastOne(question string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) == 0 {
			return errors.New(question)
		}
		return nil
	}
}

// isCommand refuses to help with what is no command.
func isCommand(cmd *cobra.Command, args []string) error {
	found, rest, err := cmd.Root().Find(args)
	switch {
	case err != nil:
		return err
	case len(rest) > 0 && found.HasSubCommands():
		return unknownCommand(found, rest[0])
	}
	return nil
}

func wrongUsage(cmd *cobra.Command, err error) error {
	return usageError(fmt.Errorf("%w\nSee '%s --help'", err, cmd.CommandPath()))
}

// wrongFlag is what a flag that a command does not know means: in a group of
// commands it may be that of a command which is misspelt.
func wrongFlag(cmd *cobra.Command, err error) error {
	if args := cmd.Flags().Args(); cmd.HasSubCommands() && len(args) > 0 && cmd.ValidateArgs(args) != nil {
		return unknownCommand(cmd, args[0])
	}
	return wrongUsage(cmd, err)
}

// unknownCommand names those that may have been meant.
func unknownCommand(cmd *cobra.Command, name string) error {
	if cmd.SuggestionsMinimumDistance <= 0 {
		cmd.SuggestionsMinimumDistance = 2
	}
	text := fmt.Sprintf("unknown command %q for %q", name, cmd.CommandPath())
	if meant := cmd.SuggestionsFor(name); len(meant) > 0 {
		text += ": did you mean " + strings.Join(meant, " or ") + "?"
	}
	return wrongUsage(cmd, errors.New(text))
}

// narrow makes the help of a tree of commands fit into columns.
func narrow(root *cobra.Command) {
	root.SetUsageTemplate(strings.ReplaceAll(root.UsageTemplate(), ".FlagUsages ", ".FlagUsagesWrapped "+strconv.Itoa(columns)+" "))
}

// count is a flag whose value counts something, so that it is not negative.
type count struct{ value *int }

func (c count) String() string {
	if c.value == nil { // pflag asks an empty one for its default
		return "0"
	}
	return strconv.Itoa(*c.value)
}

func (c count) Type() string { return "int" }

func (c count) Set(text string) error {
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return errors.New("it is a number from 0 on")
	}
	*c.value = n
	return nil
}

// imageName is a flag whose value is a reference to a container image.
type imageName struct{ value *string }

func (i imageName) String() string {
	if i.value == nil {
		return ""
	}
	return *i.value
}

func (i imageName) Type() string { return "string" }

func (i imageName) Set(text string) error {
	if err := install.CheckImage(text); err != nil {
		return err
	}
	*i.value = text
	return nil
}
