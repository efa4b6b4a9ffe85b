// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/weirnet/weir/agent/install"
)

func imageCommand() *cobra.Command {
	var out, push, tag, program string
	cmd := &cobra.Command{
		Use:   "image",
		Short: "Make the agent's container image, of this program",
		Long: `Make the agent's container image, of this program.

The image has one file, /weir, and no base; neither Docker nor another daemon
is needed. The same program gives the same image, byte for byte. It is written
as an archive, or pushed to a registry as whoever the configuration of docker
or podman is logged in.`,
		Example: `  weir image -o weir.tar && kind load image-archive weir.tar
  weir image --push registry.example/weir:1`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if out == "" && push == "" {
				return usageError(errors.New("where to? Give a file by --output, or a registry's reference by --push"))
			}
			if program == "" {
				var err error
				if program, err = os.Executable(); err != nil {
					return fmt.Errorf("find this program: %w", err)
				}
			}
			image, err := install.NewImage(program)
			if err != nil {
				return err
			}
			digest, err := image.Digest()
			if err != nil {
				return fmt.Errorf("digest image: %w", err)
			}
			if out != "" {
				if err := image.WriteFile(out, tag); err != nil {
					return err
				}
				fmt.Fprintf(cmd.ErrOrStderr(), "%s: %s, %s\n", out, tag, digest)
			}
			if push != "" {
				if err := image.Push(cmd.Context(), push); err != nil {
					return err
				}
				fmt.Fprintf(cmd.ErrOrStderr(), "pushed %s, %s\n", push, digest)
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVarP(&out, "output", "o", "", "write an archive to this `file`")
	f.Var(imageName{&push}, "push", "push to this `reference`")
	tag = install.DefaultImage
	f.Var(imageName{&tag}, "tag", "`name` of the image in the archive")
	f.StringVar(&program, "program", "", "`path` of another static build of weir (default: this one)")
	return cmd
}
