// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/weirnet/weir/vmtest"
)

// vmOutput is the flag -o of commands that print tables.
type vmOutput struct{ format string }

func (o *vmOutput) register(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&o.format, "output", "o", "table", "table or json (one object a line)")
}

// print prints rows: as JSON, or as a table with what columns gives for each.
func vmPrint[T any](o vmOutput, w io.Writer, head string, rows []T, columns func(T) string) error {
	switch o.format {
	case "json":
		enc := json.NewEncoder(w)
		for _, r := range rows {
			if err := enc.Encode(r); err != nil {
				return err
			}
		}
		return nil
	case "table":
		table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(table, head)
		for _, r := range rows {
			fmt.Fprintln(table, columns(r))
		}
		return table.Flush()
	}
	return usageError(fmt.Errorf("--output %s: there is only table and json", o.format))
}

// vmKernelRow is a kernel of the lock as it is printed.
type vmKernelRow struct {
	ID      string `json:"id"`
	Release string `json:"release"`
	Version string `json:"version"`
	Suite   string `json:"suite"`
	Bytes   int64  `json:"bytes"`
	Here    bool   `json:"here"`
	Newer   string `json:"newer,omitempty"`
}

func vmKernelsCommand() *cobra.Command {
	var output vmOutput
	var look bool
	cmd := &cobra.Command{
		Use:   "kernels",
		Short: "List the kernels of the lock, and what is newer",
		Long: `List the kernels of the lock, and what is newer.

Whether there is a newer one is known from the last time that 'weir vm refresh'
or 'weir vm kernels --newer' looked.`,
		Example: "  weir vm kernels\n  weir vm kernels --newer -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			locked, err := vmtest.Locked()
			if err != nil {
				return err
			}
			var rows []vmKernelRow
			for i := range locked {
				row, err := vmDescribeKernel(cmd, &locked[i], look)
				if err != nil {
					return err
				}
				rows = append(rows, row)
			}
			return vmPrint(output, cmd.OutOrStdout(), "ID\tRELEASE\tVERSION\tSUITE\tSIZE\tHERE\tNEWER", rows, func(r vmKernelRow) string {
				here := map[bool]string{true: "yes", false: "no"}[r.Here]
				return fmt.Sprintf("%s\t%s\t%s\t%s\t%s\t%s\t%s", r.ID, r.Release, r.Version, r.Suite, megabytes(r.Bytes), here, r.Newer)
			})
		},
	}
	output.register(cmd)
	cmd.Flags().BoolVar(&look, "newer", false, "look for newer versions in the archive")
	return cmd
}

func vmDescribeKernel(cmd *cobra.Command, k *vmtest.LockedKernel, look bool) (vmKernelRow, error) {
	_, err := vmtest.Find(cmd.Context(), k.ID, vmtest.FindOptions{Offline: true})
	row := vmKernelRow{ID: k.ID, Release: k.Release, Version: k.Version, Suite: k.Suite, Bytes: k.Size(), Here: err == nil}
	newest, err := vmtest.Newest(cmd.Context(), k, look)
	if err != nil && look {
		return row, fmt.Errorf("look for a newer %s: %w", k.ID, err)
	}
	if newest != nil && newest.Version != k.Version {
		row.Newer = newest.Version
	}
	return row, nil
}

// vmChosen returns the kernels of the lock that the arguments name, or all.
func vmChosen(lock *vmtest.Lock, args []string) ([]*vmtest.LockedKernel, error) {
	var chosen []*vmtest.LockedKernel
	known := make(map[string]*vmtest.LockedKernel)
	for i := range lock.Kernels {
		k := &lock.Kernels[i]
		known[k.ID] = k
		if len(args) == 0 {
			chosen = append(chosen, k)
		}
	}
	for _, id := range args {
		k := known[id]
		if k == nil {
			return nil, usageError(fmt.Errorf("%w %q: the lock has %v", vmtest.ErrUnknownKernel, id, lock.IDs()))
		}
		chosen = append(chosen, k)
	}
	return chosen, nil
}

func vmFetchCommand() *cobra.Command {
	var verify bool
	cmd := &cobra.Command{
		Use:   "fetch [ID...]",
		Short: "Bring kernels of the lock into the cache",
		Long: `Bring kernels of the lock into the cache.

The packages come from where this machine's apt gets its own, and are refused
unless their size and SHA-256 are those of the lock. Nothing is installed, and
apt's configuration is not touched. On a machine whose apt knows no archive of
Debian's, ` + vmtest.ArchiveEnv + ` names one. What is in the cache already is
read and compared, and fetched again if it is damaged.`,
		Example: "  weir vm fetch\n  weir vm fetch 5.10 6.1",
		RunE: func(cmd *cobra.Command, args []string) error {
			lock, err := vmtest.DefaultLock()
			if err != nil {
				return err
			}
			chosen, err := vmChosen(lock, args)
			if err != nil {
				return err
			}
			progress := newVMProgress()
			for _, k := range chosen {
				kernel, err := vmtest.Fetch(cmd.Context(), k, vmtest.FetchOptions{Verify: verify, Progress: progress})
				if cmd.Context().Err() != nil {
					return vmInterrupted(cmd.Context())
				}
				if err != nil {
					return err
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s %s is here\n", k.ID, kernel.Version)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&verify, "verify", true, "read what is in the cache already, and compare digests")
	return cmd
}

func vmRefreshCommand() *cobra.Command {
	var file string
	var dry bool
	cmd := &cobra.Command{
		Use:   "refresh [ID...]",
		Short: "Move the lock to the newest versions",
		Long: `Move the lock to the newest versions.

The lists of the suites are read with an apt state of their own, and their
signatures verified with Debian's keys. The lock is a file of the repository:
after a change, weir has to be built again.`,
		Example: "  weir vm refresh\n  weir vm refresh --dry-run 7.2",
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := vmLockFile(file)
			if err != nil {
				return err
			}
			lock, err := vmtest.ReadLock(path)
			if err != nil {
				return err
			}
			chosen, err := vmChosen(lock, args)
			if err != nil {
				return err
			}
			changed := 0
			for _, k := range chosen {
				newest, err := vmtest.Newest(cmd.Context(), k, true)
				if err != nil {
					return fmt.Errorf("refresh %s: %w", k.ID, err)
				}
				if newest.Version == k.Version {
					fmt.Fprintf(cmd.OutOrStdout(), "%s %s is the newest\n", k.ID, k.Version)
					continue
				}
				fmt.Fprintf(cmd.OutOrStdout(), "%s %s -> %s\n", k.ID, k.Version, newest.Version)
				lock.Replace(newest)
				changed++
			}
			if changed == 0 || dry {
				return nil
			}
			return lock.Write(path)
		},
	}
	cmd.Flags().StringVar(&file, "lock", "", "the lock (default: vmtest/kernels.lock of this repository)")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only say what would change")
	return cmd
}

func vmCleanCommand() *cobra.Command {
	var everything bool
	cmd := &cobra.Command{
		Use:   "clean",
		Short: "Remove snapshots, and kernels that the lock does not name any more",
		Long: `Remove from the cache what can be made again without a network (snapshots, the
guest's init, own kernels), and kernels that the lock does not name any more.
What another run uses just now stays.`,
		Example: "  weir vm clean\n  weir vm clean --all",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			removed, err := vmtest.Clean(cmd.Context(), everything)
			for _, dir := range removed {
				fmt.Fprintln(cmd.OutOrStdout(), "removed", dir)
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&everything, "all", false, "remove the kernels of the lock too")
	return cmd
}

// vmLockFile finds the lock, upwards from here.
func vmLockFile(file string) (string, error) {
	if file == "" {
		file = os.Getenv(vmtest.LockEnv)
	}
	if file != "" {
		return file, nil
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		candidate := filepath.Join(dir, "vmtest", "kernels.lock")
		if _, err := os.Stat(candidate); err == nil {
			return candidate, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("this is not a checkout of Weir: name the lock with --lock")
		}
		dir = parent
	}
}

// vmCheckRow is an option of a kernel as it is printed.
type vmCheckRow struct {
	Kernel string `json:"kernel"`
	Option string `json:"option"`
	Value  string `json:"value"`
	For    string `json:"for"`
}

func vmCheckCommand() *cobra.Command {
	var output vmOutput
	var kernel string
	var all bool
	cmd := &cobra.Command{
		Use:   "check [CONFIG_OPTION...]",
		Short: "Say what a kernel's config lacks",
		Long: `Say what a kernel's config lacks: to be a guest at all, for most eBPF programs,
and of the options that are named. It fails if one of the first or of the last
is missing.`,
		Example: "  weir vm check --kernel 5.10 CONFIG_NETKIT\n  weir vm check --kernel ~/linux --all",
		RunE: func(cmd *cobra.Command, args []string) error {
			k, err := vmtest.Find(cmd.Context(), kernel, vmtest.FindOptions{Progress: newVMProgress()})
			if err != nil {
				return err
			}
			if len(k.Config) == 0 {
				return fmt.Errorf("the config of kernel %s is not known: put it beside the kernel, as config or config-%s", k.ID, k.Release)
			}
			var rows []vmCheckRow
			missing := 0
			for _, f := range k.Check(args...) {
				if f.Fatal {
					missing++
				}
				if f.Value == "" || all {
					rows = append(rows, vmCheckRow{k.ID, "CONFIG_" + f.Option, f.Value, f.For})
				}
			}
			if len(rows) == 0 && output.format == "table" {
				fmt.Fprintf(cmd.OutOrStdout(), "kernel %s (%s) has everything\n", k.ID, k.Release)
				return nil
			}
			err = vmPrint(output, cmd.OutOrStdout(), "KERNEL\tOPTION\tVALUE\tFOR", rows, func(r vmCheckRow) string {
				if r.Value == "" {
					r.Value = "missing"
				}
				return fmt.Sprintf("%s\t%s\t%s\t%s", r.Kernel, r.Option, r.Value, r.For)
			})
			if err == nil && missing > 0 {
				err = &exitError{code: exitFailed}
			}
			return err
		},
	}
	cmd.Flags().StringVarP(&kernel, "kernel", "k", defaultKernel, "kernel of the lock, or a path")
	cmd.Flags().BoolVar(&all, "all", false, "list what is there, too")
	output.register(cmd)
	return cmd
}
