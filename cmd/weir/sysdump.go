// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/klog/v2"

	"github.com/weirnet/weir/agent/install"
	"github.com/weirnet/weir/agent/sysdump"
)

type sysdumpFlags struct {
	cluster clusterFlags
	options sysdump.Options
	limit   string
}

func sysdumpCommand() *cobra.Command {
	var f sysdumpFlags
	cmd := &cobra.Command{
		Use:   "sysdump",
		Short: "Write a zip of all that tells how Weir is in a cluster",
		Long: `Write a zip of all that tells how Weir is in a cluster, to look at it later or
elsewhere. Nothing in the cluster is changed.

  objects/     nodes, namespaces, pods, services, endpoint slices, policies:
               what 'weir policy' reads
  weir/        the DaemonSet, its configuration, identities
  kubernetes/  events, and the DaemonSets of kube-system
  nodes/NODE/  the agent's log and that of the container before; its status,
               services, endpoints, identities, policies, flows and translated
               sources; and the events of some seconds, as JSON
  errors.txt   what could not be had and why, and what was cut
  index.json   the same, and the list of files

Secrets are never asked for. What may be one is left out: values of keys,
variables and flags that are called so, tokens, private keys, users of URLs,
kubectl's last applied configuration, and all variables and arguments of
containers that are not Weir's. Addresses and names stay: look through the zip
before you give it away.

A node that is down costs its --timeout and nothing else. Each agent is asked in
its pod, so the kubeconfig's user needs pods/exec in kube-system. The exit
status is 0 if there is a zip, whatever it lacks, 1 if there is none, and 2 if
the command line is wrong.`,
		Example: `  weir sysdump
  weir sysdump --node worker-1 --since 10m -o worker-1.zip
  weir sysdump --timeout 20s --size-limit 50Mi
  unzip -d dump weir-sysdump-*.zip &&
      weir policy suggest dump/nodes/*/events.json -f dump/objects`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return f.run(cmd) },
	}
	f.cluster.register(cmd)
	flags := cmd.Flags()
	flags.StringVarP(&f.options.Path, "output", "o", "", "the zip's `file` (default weir-sysdump-DATE.zip)")
	flags.StringSliceVar(&f.options.Nodes, "node", nil, "only the agents of these `nodes`")
	flags.DurationVar(&f.options.Since, "since", time.Hour, "no older logs and events of Kubernetes")
	flags.DurationVar(&f.options.Timeout, "timeout", time.Minute, "how long each node may take, and the API server for the objects")
	flags.DurationVar(&f.options.Listen, "listen", 5*time.Second, "how long each agent's events are listened to")
	flags.StringVar(&f.limit, "size-limit", "256Mi", "room for all files together, before they are compressed: `bytes`, Ki, Mi or Gi")
	return cmd
}

func (f *sysdumpFlags) check() error {
	for flag, value := range map[string]time.Duration{"since": f.options.Since, "timeout": f.options.Timeout, "listen": f.options.Listen} {
		if value <= 0 {
			return usageError(fmt.Errorf("--%s %s: it is some time", flag, value))
		}
	}
	limit, err := resource.ParseQuantity(f.limit)
	if err != nil || limit.Value() <= 0 {
		return usageError(fmt.Errorf("--size-limit %s: give bytes, as 50Mi", f.limit))
	}
	f.options.Room = limit.Value()
	if f.options.Path == "" {
		f.options.Path = "weir-sysdump-" + time.Now().UTC().Format("20060102-150405") + ".zip"
	}
	if info, err := os.Stat(filepath.Dir(f.options.Path)); err != nil || !info.IsDir() {
		return usageError(fmt.Errorf("--output %s: there is no folder %s", f.options.Path, filepath.Dir(f.options.Path)))
	}
	if info, err := os.Stat(f.options.Path); err == nil && info.IsDir() {
		return usageError(fmt.Errorf("--output %s: it is a folder: name a file in it", f.options.Path))
	}
	return nil
}

func (f *sysdumpFlags) run(cmd *cobra.Command) error {
	if err := f.check(); err != nil {
		return err
	}
	config, err := install.ReadConfig(f.cluster.kubeconfig, f.cluster.context)
	if err != nil {
		return err
	}
	klog.SetLogger(klog.Logger{}) // client-go tells of each stream that is ended
	told := cmd.ErrOrStderr()
	f.options.Version = thisBuild().Version
	f.options.Say = func(line string) { fmt.Fprintln(told, line) }
	index, err := sysdump.Write(cmd.Context(), config, f.options)
	if err != nil {
		return err
	}
	info, err := os.Stat(f.options.Path)
	if err != nil {
		return fmt.Errorf("look at the zip: %w", err)
	}
	if n := len(index.Lacks); n > 0 {
		fmt.Fprintf(told, "could not be had: %d; errors.txt in the zip says what and why\n", n)
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %d files, %.1f MiB\n", f.options.Path, len(index.Files)+2, float64(info.Size())/(1<<20))
	return err
}
