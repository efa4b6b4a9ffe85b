// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/weirnet/weir/model/compile"
	"github.com/weirnet/weir/policy"
)

func policyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Say what network policies allow, and what a change of them would",
		Long: `Say what network policies allow, and what a change of them would.

Policies are NetworkPolicy (networking.k8s.io/v1), ClusterNetworkPolicy
(policy.networking.k8s.io/v1beta1 or v1alpha2), CiliumNetworkPolicy and
CiliumClusterwideNetworkPolicy (cilium.io/v2, addresses and ports). They are
read from manifests, with the Pods (their addresses in status.podIPs),
Namespaces and, where policies speak of them, Nodes, Services and
EndpointSlices. OBJECTS is a file of YAML or JSON, a folder of such, or - for
the standard input: what 'helm template' prints, or 'kubectl get -o yaml'.

Objects of other kinds are passed over and counted. A Deployment, StatefulSet,
DaemonSet, ReplicaSet, Job or CronJob whose pods are not there stands for them,
as one pod with its name and addresses from 240.1.0.0 on, which are nobody's.`,
	}
	cmd.AddCommand(policyListCommand(), policyCheckCommand(), policyTableCommand(), policyDiffCommand(), policySuggestCommand())
	return cmd
}

// noAnswerBut leaves an answer as it is, such as a denial, and a signal. It makes
// other errors end the process as one of the command line does: exit status 1 is
// an answer of some policy commands.
func noAnswerBut(err error) error {
	if _, ok := errors.AsType[*exitError](err); ok || err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	return usageError(err)
}

func tellWarnings(out io.Writer, warnings []compile.Warning) {
	for _, w := range warnings {
		fmt.Fprintln(out, "weir: warning:", w)
	}
}

func tellLeftOut(out io.Writer, left []policy.LeftOut) {
	for _, l := range left {
		fmt.Fprintf(out, "weir: Pod %s is left out: %s\n", l.Pod, l.Why)
	}
}
