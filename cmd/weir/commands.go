// SPDX-License-Identifier: Apache-2.0

package main

import "github.com/spf13/cobra"

// commands lists the groups of the command line, one file each.
func commands() []*cobra.Command {
	return []*cobra.Command{
		agentCommand(),
		benchCommand(),
		connectivityCommand(),
		endpointCommand(),
		flowCommand(),
		fuzzCommand(),
		imageCommand(),
		identityCommand(),
		installCommand(),
		labCommand(),
		monitorCommand(),
		mutateCommand(),
		natCommand(),
		policyCommand(),
		replayCommand(),
		recordCommand(),
		scenarioCommand(),
		serviceCommand(),
		statusCommand(),
		sysdumpCommand(),
		uninstallCommand(),
		versionCommand(),
		vmCommand(),
	}
}
