"""Match new images by a finished run, or keep an index of images that is added to and searched.

python -m projects.product_matching.match --run RUN --images photos/ --query photos/shoe.jpg
python -m projects.product_matching.match index build --run RUN --images photos/ --index shop/
python -m projects.product_matching.match index add --index shop/ --images new_photos/
python -m projects.product_matching.match index query --index shop/ --query shoe.jpg
"""

from projects.product_matching.cli.match import main

if __name__ == "__main__":
    main()
