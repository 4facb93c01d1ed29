#!/usr/bin/env bash
# Stop what start.sh started. Its configuration goes too: with a slurm.conf but no
# controller, the Slurm plugin makes every snakemake start 10 s slower.
grep -q '^ClusterName=throwaway$' /etc/slurm/slurm.conf 2>/dev/null || exit 0
squeue -h -o %A 2>/dev/null | sort -u | xargs -r scancel
sleep 1
scontrol shutdown
sleep 1
rm -f /etc/slurm/slurm.conf /etc/slurm/gres.conf
