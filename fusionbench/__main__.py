from fusionbench.cli import main

main()
