// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirnet/weir/agent/watch"
	"github.com/weirnet/weir/model/compile"
	"github.com/weirnet/weir/model/manifest"
	"github.com/weirnet/weir/policy"
)

// policyObjects are where the objects of a policy command come from.
type policyObjects struct {
	kubeconfig string
}

func (o *policyObjects) addFlag(cmd *cobra.Command, use string) {
	cmd.Flags().StringVar(&o.kubeconfig, "kubeconfig", "", "take the objects of the cluster that this `file` leads to; "+use)
}

func (o *policyObjects) live() bool { return o.kubeconfig != "" }

// read gives the objects of the live cluster, if one is named, and what paths
// hold in their place or beside them.
func (o *policyObjects) read(cmd *cobra.Command, paths ...string) (*policy.Input, error) {
	input, err := policy.Read(cmd.InOrStdin(), paths...)
	if err != nil {
		return nil, err
	}
	if o.live() {
		live, err := liveObjects(cmd.Context(), o.kubeconfig, cmd.ErrOrStderr())
		if err != nil {
			return nil, err
		}
		own := input.Objects
		live.Merge(own)
		tellRefused(cmd.ErrOrStderr(), policy.LeaveRefused(live, own))
		input.Objects = live
	}
	input.Substitute()
	tellInput(cmd.ErrOrStderr(), input)
	return input, nil
}

// tellInput says what of the manifests was passed over, and who stands for whom.
func tellInput(out io.Writer, input *policy.Input) {
	if passed := input.PassedOver(); passed != "" {
		fmt.Fprintln(out, "weir: passed over:", passed)
	}
	for i := range input.Substitutes {
		fmt.Fprintf(out, "weir: %s stands for its pods\n", &input.Substitutes[i])
	}
}

func tellRefused(out io.Writer, refusals []compile.Refusal) {
	for _, r := range refusals {
		fmt.Fprintln(out, "weir: left out:", r)
	}
}

// livePatience is how long a cluster may take to list its objects.
const livePatience = 20 * time.Second

// liveObjects reads what an agent would. Objects that cannot be read are named
// and left out, as agents leave them out.
func liveObjects(ctx context.Context, kubeconfig string, warn io.Writer) (*manifest.Objects, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, livePatience, errors.New("the cluster has not answered within 20 seconds"))
	defer cancel()
	objs, unread, err := watch.List(ctx, kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("read the cluster of kubeconfig %s: %w", kubeconfig, err)
	}
	tellRefused(warn, compile.LeaveUnread(objs, unread).Refusals())
	return objs, nil
}
